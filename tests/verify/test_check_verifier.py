"""A verifier that does not recognise the ground truths is found before a run."""

from collections.abc import Sequence

import pytest

from treepo.data.problem import Outcome, Verdict
from treepo.verify.pool import VerifierPool
from treepo.verify.task import check_verifier
from treepo.verify.verifiers import ChoiceVerifier


class InProcess(VerifierPool):
    """Judges in this process."""

    def verify(self, pairs: Sequence[tuple[str, str]], columns: object = None) -> list[Verdict]:
        return [self.verifier(response, ground_truth) for response, ground_truth in pairs]


POOL = InProcess(ChoiceVerifier())


def test_nothing_is_logged_where_all_are_recognised(caplog):
    check_verifier(POOL, ["A", "(B)", "C."], "d")
    check_verifier(POOL, [], "d")
    assert caplog.messages == []


@pytest.mark.parametrize("good", [1, 15, 30])
def test_one_odd_answer_is_logged(good, caplog):
    check_verifier(POOL, ["A"] * good + ["none"], "d")
    assert caplog.messages == ["verifier: a ground truth of 'd' is not recognised: 'none': unparsed"]


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        (["none"], "1 of 1 ground truths of 'd': 'none': unparsed"),
        (["A"] * 14 + ["none", "some"], "2 of 16 ground truths of 'd': 'none': unparsed; 'some': unparsed"),
        (list("1234"), "4 of 4 ground truths of 'd': '1': unparsed; '2': unparsed; '3': unparsed$"),
        (["7" * 1000] * 2, "2 of 2 ground truths of 'd': '" + "7" * 80 + "': unparsed; '" + "7" * 80 + "': unparsed$"),
    ],
)
def test_more_stop_the_run(answers, shown):
    with pytest.raises(ValueError, match="^verifier: ChoiceVerifier does not recognise " + shown):
        check_verifier(POOL, answers, "d")


def test_the_first_crash_is_named():
    pool = InProcess(ChoiceVerifier())
    pool.crashes.append("ZeroDivisionError: no (x.py:1)")
    with pytest.raises(ValueError, match=r"'d': '1': unparsed \(ZeroDivisionError: no \(x.py:1\)\)"):
        check_verifier(pool, ["1"], "d")


def test_wrong_is_wrong():
    class Backwards(InProcess):
        def verify(self, pairs, columns=None):
            return [Verdict(0.0, Outcome.GRADED, None) for _ in pairs]

    with pytest.raises(ValueError, match="'A': judged wrong"):
        check_verifier(Backwards(ChoiceVerifier()), ["A"], "d")

"""A verifier that does not recognise the known answers is found before a run."""

from collections.abc import Sequence

import pytest

from treepo.data.problem import Outcome, Verdict
from treepo.verify.pool import VerifierPool
from treepo.verify.task import probe
from treepo.verify.verifiers import ChoiceVerifier


class Prepared(VerifierPool):
    """Judges in this process."""

    def verify(self, asked: Sequence[tuple[str, str]]) -> list[Verdict]:
        return [self.verifier(response, answer) for response, answer in asked]


POOL = Prepared(ChoiceVerifier())


def test_all_recognised_is_nothing_to_say():
    assert probe(POOL, ["A", "(B)", "C."]) == [] == probe(POOL, [])


@pytest.mark.parametrize("good", [1, 15, 30])
def test_one_odd_answer_is_told(good):
    assert probe(POOL, ["A"] * good + ["none"]) == ["'none': unparsed"]


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        (["none"], "1 of 1 known answers: 'none': unparsed"),
        (["A"] * 14 + ["none", "some"], "2 of 16 known answers: 'none': unparsed; 'some': unparsed"),
        (list("1234"), "4 of 4 known answers: '1': unparsed; '2': unparsed; '3': unparsed$"),
        (["7" * 1000] * 2, "2 of 2 known answers: '" + "7" * 80 + "': unparsed; '" + "7" * 80 + "': unparsed$"),
    ],
)
def test_more_stop_the_run(answers, shown):
    with pytest.raises(ValueError, match="ChoiceVerifier does not recognise " + shown):
        probe(POOL, answers)


def test_the_first_problem_is_told():
    pool = Prepared(ChoiceVerifier())
    pool.crashes.append("ZeroDivisionError: no (x.py:1)")
    with pytest.raises(ValueError, match=r"known answers: '1': unparsed \(ZeroDivisionError: no \(x.py:1\)\)"):
        probe(pool, ["1"])


def test_wrong_is_wrong():
    class Backwards(Prepared):
        def verify(self, asked):
            return [Verdict(0.0, Outcome.GRADED, None) for _ in asked]

    with pytest.raises(ValueError, match="'A': judged wrong"):
        probe(Backwards(ChoiceVerifier()), ["A"])

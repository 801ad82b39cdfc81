"""Problems that are judged in processes of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from treepo.data.datasets import Dataset
from treepo.data.problem import Outcome, Problem
from treepo.errors import VerifierError
from treepo.verify.math import MathVerifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.task import VerifiedTask
from treepo.verify.verifiers import FunctionVerifier

PROBLEMS = tuple(Problem(f"p{i}", f"{i}+{i}?", (1, 2), str(2 * i), "sums") for i in range(10))
DATA = (Dataset("sums", PROBLEMS[:8]),), (Dataset("sums", PROBLEMS[8:]),)


@pytest.fixture
def task() -> Iterator[VerifiedTask]:
    made = VerifiedTask(*DATA, pool=VerifierPool(MathVerifier(), VerifierPoolSettings(num_workers=1)))
    yield made
    made.close()


def test_each_response_is_judged_by_its_own_problem(task: VerifiedTask) -> None:
    """In the order in which they are asked about, whatever problem they belong to."""
    asked = [(PROBLEMS[i % 5], f"\\boxed{{{2 * (i // 5)}}}") for i in range(25)]
    verdicts = task.verify(asked)
    assert [v.correct for v in verdicts] == [float(i % 5 == i // 5) for i in range(25)]
    assert task.verify([]) == []


def test_the_reward_is_the_last_box(task: VerifiedTask) -> None:
    """Not -1 for all, as with the reward file that the release names: right is 1, and nothing else is."""
    responses = ["first \\boxed{1}, no: \\boxed{4}.", "4", "\\boxed{4} or \\boxed{5}", "\\boxed{4} or \\boxed{5"]
    verdicts = task.verify([(PROBLEMS[2], response) for response in responses])
    assert [v.correct for v in verdicts] == [1.0, 0.0, 0.0, 0.0]
    assert [v.outcome for v in verdicts[1::2]] == [Outcome.NO_ANSWER] * 2


def test_a_worker_that_cannot_start_again_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the pool raised later in a run was no user's mistake to the command line, but a traceback."""
    module = tmp_path / "goes_away.py"
    module.write_text("import os\ndef judge(response, answer):\n    return response != 'die' or os._exit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    pool = VerifierPool(FunctionVerifier("goes_away:judge"), VerifierPoolSettings(num_workers=1))
    task = VerifiedTask(*DATA, pool=pool)
    try:
        assert task.verify([(PROBLEMS[0], "a")])[0].correct == 1.0
        module.write_text("raise SystemExit('expired')\n")
        with pytest.raises(
            VerifierError, match="^verifier.function: cannot be imported: .*expired.*, got 'goes_away:judge'"
        ):
            task.verify([(PROBLEMS[0], "die"), (PROBLEMS[0], "a")])
    finally:
        task.close()


def test_a_verifier_that_fails_on_everything_is_no_weak_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rewards would all be 0 for no fault of the answers: one failure among others is logged, a total one stops."""
    (tmp_path / "odd_checks.py").write_text(
        "def judge(response, answer):\n"
        "    if response == 'bad':\n"
        "        raise RuntimeError('broken')\n"
        "    return True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    pool = VerifierPool(FunctionVerifier("odd_checks:judge"), VerifierPoolSettings(num_workers=1))
    task = VerifiedTask(*DATA, pool=pool)
    try:
        mixed = task.verify([(PROBLEMS[0], "bad"), *[(PROBLEMS[0], "good")] * 8])
        assert [v.correct for v in mixed] == [0.0, *[1.0] * 8]
        (logged,) = caplog.messages
        assert logged.startswith("verifier: ") and "broken" in logged
        with pytest.raises(VerifierError, match="no verdict on any of 8 answers: .*broken"):
            task.verify([(PROBLEMS[0], "bad")] * 8)
    finally:
        task.close()

"""Whether a verifier recognises the known answers, before a run depends on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from treepo.data.datasets import DatasetTask
from treepo.data.problem import Outcome, Problem, Verdict
from treepo.errors import VerifierError, VerifierStartError
from treepo.verify.pool import VerifierPool

TOLERATED_SHARE = 0.1
"""Of known answers that are not recognised: real sets hold a few of those, a wrong verifier fails on most."""

MOST_SHOWN = 3
LONGEST_SHOWN = 80


def probe(pool: VerifierPool, answers: Sequence[str]) -> list[str]:
    """Ask about known answers as the verifier itself would write them; returns a line for each not judged right.

    Raises ValueError naming the verifier and up to three answers if none of them is judged right, or if those that are
    not are several and more than TOLERATED_SHARE; and whatever `VerifierPool.check` raises.
    """
    verdicts = pool.check([(pool.verifier.example_response(answer), answer) for answer in answers])
    failed = [_line(answer, said) for answer, said in zip(answers, verdicts, strict=True) if said.correct < 1]
    if len(failed) == len(answers) > 0 or len(failed) > max(1, TOLERATED_SHARE * len(answers)):
        name = type(pool.verifier).__name__
        problems = f" ({pool.problems[0]})" if pool.problems else ""
        shown = "; ".join(failed[:MOST_SHOWN])
        raise ValueError(f"{name} does not recognise {len(failed)} of {len(answers)} known answers: {shown}{problems}")
    return failed


def _line(answer: str, verdict: Verdict) -> str:
    reason = "judged wrong" if verdict.outcome is Outcome.GRADED else verdict.outcome
    return f"{answer[:LONGEST_SHOWN]!r}: {reason}"


FEWEST_TELLING = 8
"""Answers of which all must be lost before the verifier is to blame."""


@dataclass(frozen=True)
class VerifiedTask:
    """The problems of `data`, judged by `pool`. notify: told in a line of each kind of crash, the first few times."""

    data: DatasetTask
    pool: VerifierPool
    notify: Callable[[str], None]

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """See Task."""
        return self.data.training_problems(step, count)

    def eval_problems(self, count: int) -> list[Problem]:
        """See Task."""
        return self.data.eval_problems(count)

    def verify(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """See Task.

        Raises VerifierError if of at least FEWEST_TELLING answers every one timed out or crashed, or if a worker that
        must be replaced cannot start again.
        """
        num_known = len(self.pool.problems)
        try:
            verdicts = self.pool.check([(response, problem.ground_truth) for problem, response in asked])
        except VerifierStartError as error:
            raise VerifierError(str(error)) from error
        for line in self.pool.problems[num_known:]:
            self.notify(f"verifier: {line}")
        lost = [v for v in verdicts if v.outcome in {Outcome.TIMEOUT, Outcome.CRASHED}]
        if len(lost) == len(verdicts) >= FEWEST_TELLING:
            first = self.pool.problems[0] if self.pool.problems else "the time limit passed"
            raise VerifierError(f"verifier: no verdict on any of {len(lost)} answers: {first}")
        return verdicts

    def close(self) -> None:
        """End the worker processes."""
        self.pool.close()

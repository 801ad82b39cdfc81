"""Whether a checker recognises the known answers, before a run depends on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from treepo.data.datasets import DataTask
from treepo.data.problem import Outcome, Problem, Verdict
from treepo.errors import CheckingError, StartError
from treepo.verify.pool import CheckerPool

TOLERATED_SHARE = 0.1
"""Of known answers that are not recognised: real sets hold a few of those, a wrong checker fails on most."""

MOST_SHOWN = 3
LONGEST_SHOWN = 80


def probe(pool: CheckerPool, answers: Sequence[str]) -> list[str]:
    """Ask about known answers as the checker itself would write them; returns a line for each not judged right.

    Raises ValueError naming the checker and up to three answers if none of them is judged right, or if those that are
    not are several and more than TOLERATED_SHARE; and whatever `CheckerPool.check` raises.
    """
    verdicts = pool.check([(pool.checker.written(answer), answer) for answer in answers])
    failed = [_line(answer, said) for answer, said in zip(answers, verdicts, strict=True) if said.correct < 1]
    if len(failed) == len(answers) > 0 or len(failed) > max(1, TOLERATED_SHARE * len(answers)):
        name = type(pool.checker).__name__
        problems = f" ({pool.problems[0]})" if pool.problems else ""
        shown = "; ".join(failed[:MOST_SHOWN])
        raise ValueError(f"{name} does not recognise {len(failed)} of {len(answers)} known answers: {shown}{problems}")
    return failed


def _line(answer: str, verdict: Verdict) -> str:
    reason = "judged wrong" if verdict.outcome is Outcome.CHECKED else verdict.outcome
    return f"{answer[:LONGEST_SHOWN]!r}: {reason}"


FEWEST_TELLING = 8
"""Answers of which all must be lost before the checker is to blame."""


@dataclass(frozen=True)
class CheckedTask:
    """The problems of `data`, judged by `pool`. notify: told in a line of each kind of crash, the first few times."""

    data: DataTask
    pool: CheckerPool
    notify: Callable[[str], None]

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """See Task."""
        return self.data.training_problems(step, count)

    def held_out_problems(self, count: int) -> list[Problem]:
        """See Task."""
        return self.data.held_out_problems(count)

    def judge(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """See Task.

        Raises CheckingError if of at least FEWEST_TELLING answers every one timed out or crashed, or if a worker that
        must be replaced cannot start again.
        """
        num_known = len(self.pool.problems)
        try:
            verdicts = self.pool.check([(response, problem.answer) for problem, response in asked])
        except StartError as error:
            raise CheckingError(str(error)) from error
        for line in self.pool.problems[num_known:]:
            self.notify(f"checker: {line}")
        lost = [v for v in verdicts if v.outcome in {Outcome.TIMEOUT, Outcome.CRASHED}]
        if len(lost) == len(verdicts) >= FEWEST_TELLING:
            first = self.pool.problems[0] if self.pool.problems else "the time limit passed"
            raise CheckingError(f"checker: no verdict on any of {len(lost)} answers: {first}")
        return verdicts

    def close(self) -> None:
        """End the worker processes."""
        self.pool.close()

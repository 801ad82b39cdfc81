"""Problems of several sets whose answers are judged in worker processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from treepo.task.checking import CheckerPool, Outcome, StartError, Verdict
from treepo.task.data import DataTask
from treepo.task.problem import Problem

FEWEST_TELLING = 8
"""Answers of which all must be lost before the checker is to blame."""


class CheckingError(Exception):
    """The checker comes to no verdict at all, or cannot be started any more, through no fault of the answers."""


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

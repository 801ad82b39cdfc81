"""How long a run is: epochs in steps, and what ends it before its last step."""

import logging
import math
from dataclasses import replace
from fractions import Fraction
from time import monotonic
from types import TracebackType
from typing import Self

from treepo.config.schema import Config, EvalSettings
from treepo.data.datasets import Dataset, DatasetTask
from treepo.data.problem import Task
from treepo.distributed import DistContext
from treepo.errors import SettingError
from treepo.learn.checkpoint import Progress
from treepo.utils.signals import StopRequest

logger = logging.getLogger(__name__)


def with_epochs(config: Config, task: Task) -> Config:
    """The settings with `train.num_epochs` written as `train.num_steps`, so that a folder's settings say how long its
    run is; logs how many steps an epoch has.

    A step takes as many problems of an epoch as dynamic sampling may grow, whether it grows them or not.
    Raises SettingError for epochs of the built-in task and of datasets without an end.
    """
    if not isinstance(task, DatasetTask):
        if config.train.num_epochs:
            message = "the built-in task has no epochs; give train.num_steps, or datasets"
            raise SettingError("train.num_epochs", message, config.train.num_epochs)
        return config
    if task.is_endless:
        if config.train.num_epochs:
            message = "problems of reasoning_gym are made without end, so there are no epochs; give train.num_steps"
            raise SettingError("train.num_epochs", message, config.train.num_epochs)
        return config
    num_problems = sum(len(dataset.problems) for dataset in task.train if isinstance(dataset, Dataset))
    per_step, train = config.max_problems_per_step, config.train
    if config.tokens_per_step:
        logger.info("One epoch is %d problems; a step has as many as branching.tokens_per_step buys.", num_problems)
        return config
    if train.num_epochs:
        # As it is written: 0.1 of 300 problems are 30, not a little more.
        num_steps = math.ceil(Fraction(str(train.num_epochs)) * num_problems / per_step)
        train = replace(train, num_steps=num_steps, num_epochs=0.0)
    logger.info(
        "One epoch is %s (%s, %d a step); the run has %d, %s.",
        _number(num_problems / per_step, "step"),
        _number(num_problems, "problem"),
        per_step,
        train.num_steps,
        _number(train.num_steps * per_step / num_problems, "epoch"),
    )
    return replace(config, train=train)


def _number(value: float, noun: str) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".") if value >= 0.01 or not value else f"{value:.1g}"
    return f"{text} {noun}{'s' * (value != 1)}"


def is_evaluated(step: int, settings: Config) -> bool:
    """Whether a step ends with an evaluation."""
    if step == 0:
        return settings.eval.at_start
    return step == settings.train.num_steps or (settings.eval.every > 0 and step % settings.eval.every == 0)


def is_patience_over(settings: EvalSettings, progress: Progress) -> bool:
    """Whether there were as many evaluations in a row without a better score as there may be."""
    return 0 < settings.patience <= progress.num_not_better


class Limits:
    """What stops a run from outside, to be resumed later: its time, from when this is made, and a request, which
    SIGUSR1 is while this is entered.

    max_hours: see TrainSettings. processes: those that stop together, whichever of them is asked.
    """

    def __init__(self, max_hours: float | None, processes: DistContext) -> None:
        self.max_hours = max_hours
        self.request = StopRequest()
        self.processes = processes
        self._start = self._last = monotonic()
        self._longest_s = 0.0

    def __enter__(self) -> Self:
        self.request.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.request.__exit__(kind, error, at)

    def stop_before_step(self) -> str:
        """Why no step may begin now, the same in all processes; empty if one may. Called before each step.

        A step is taken to last as long as the longest so far, with its evaluation and checkpoint.
        """
        now = monotonic()
        self._longest_s, self._last = max(self._longest_s, now - self._last), now
        reason = ""
        if self.max_hours is not None and now + self._longest_s - self._start > 3600 * self.max_hours:
            reason = f"train.max_hours = {self.max_hours:g}"
        if self.request.is_made:
            reason = "SIGUSR1"
        return next(filter(None, self.processes.all_gather(reason)), "")

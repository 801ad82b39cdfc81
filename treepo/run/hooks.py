"""What a program that trains sees of a run: its steps, and when it is called."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from treepo.credit.base import Advantages
from treepo.learn.trainer import StepResult
from treepo.report.graded_tree import show_graded_tree, telling_tree
from treepo.report.notebook import step_html
from treepo.report.run_log import Metrics
from treepo.run.samples import kept_trees
from treepo.tree import Tree


def nothing(*_: object) -> None:
    """Do nothing, for what nobody wants to be called for."""


def never() -> bool:
    """Do not stop."""
    return False


@dataclass(frozen=True, eq=False)
class TrainStep:
    """A training step that is done, its metrics on disk. metrics: with those of its evaluation, if it had one."""

    step: int
    metrics: Metrics
    result: StepResult

    @property
    def trees(self) -> list[Tree]:
        """The trees that were grown."""
        return self.result.trees

    @property
    def rewards(self) -> list[np.ndarray]:
        """Per tree one per leaf, float64 [L]."""
        return self.result.rewards

    @property
    def advantages(self) -> list[Advantages | None]:
        """Per tree, None for one that was not trained on."""
        return self.result.advantages

    def show(self, console: Console | None = None) -> None:
        """Draw a tree of the step in which answers part, with verdicts and advantages, if one fits on a screen or two.

        console: the terminal if not given.
        """
        kept = telling_tree(kept_trees(self.result))
        if kept is None or kept.tree.decode is None:
            return
        console = console or Console()
        console.print(f"A tree of step {self.step}, with the advantages of its answers:")
        show_graded_tree(kept, kept.tree.decode, console)

    def __repr__(self) -> str:
        return f"TrainStep({self.step}, {self.result!r})"

    def _repr_html_(self) -> str:
        decode = self.trees[0].decode if self.trees else None
        return step_html(f"Step {self.step}", self.metrics, kept_trees(self.result), decode)


@dataclass(frozen=True)
class Hooks:
    """What a program wants to be called for.

    on_step: with a training step that is done; on_eval: with a step and the metrics of its evaluation; on_save: with a
    step and the folder in which something loadable or resumable was or is being written. should_stop: whether the run
    is to end after the step that is done.
    """

    on_step: Callable[[TrainStep], object] = nothing
    on_eval: Callable[[int, Metrics], object] = nothing
    on_save: Callable[[int, Path], object] = nothing
    should_stop: Callable[[], bool] = never


NO_HOOKS = Hooks()

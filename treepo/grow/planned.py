"""Branching by a plan: so many paths in each stage (docs/shapes.md)."""

from dataclasses import dataclass
from math import ceil, log
from typing import Annotated

import numpy as np
from pydantic import Field

from treepo.errors import SettingError
from treepo.grow.branching import Level, share_evenly, within_width

MAX_FACTOR = 8
"""Most problems of a step that a budget of tokens pays for, as a multiple of train.prompts_per_step."""


@dataclass(frozen=True)
class StagedBranching:
    """As many paths in each stage as a plan says; budget of finished paths goes to the active ones.

    Stage k is the k-th segment. `treepo plan` finds good numbers. The children of the prompt, stage 1, are the initial
    fork's. Finished paths count, so that a tree has its width however early some end.
    """

    paths: tuple[int, ...] = (2, 4, 8)
    """Paths in the stages 1, 2, ..., not falling; the last number holds for all later stages."""

    def __post_init__(self) -> None:
        if not self.paths or min(self.paths) < 1 or list(self.paths) != sorted(self.paths):
            raise SettingError("paths", "must be numbers of at least 1 that do not fall", list(self.paths))

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        wanted = self.paths[min(level.depth, len(self.paths) - 1)]
        return share_evenly(within_width(level, wanted - level.num_finished), level.num_active, rng)


@dataclass(frozen=True)
class Planned:
    """The shape follows what trees of this run have shown to pay, and is a star until then and where they do not.

    At every step the trainer estimates from the last trees how much each stage decides and costs, and chooses the paths
    per stage with the least noise of the update per decoded token (docs/shapes.md). A share of the trees keeps forking
    at random levels, each path into num_children, so that every stage can be told from the others; so do those that are
    grown outside of training. The children of the prompt are then the initial fork's.
    """

    explore: Annotated[float, Field(gt=0, le=1)] = 0.125
    """Share of the problems whose trees fork at random levels."""

    window: Annotated[int, Field(ge=2, le=1000)] = 16
    """Steps whose trees count."""

    start: Annotated[int, Field(ge=1)] = 4
    """Steps with trees that explore, until the first plan."""

    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """A tree has to be better than a star in this share of bootstrap samples of the window's steps."""

    tokens_per_step: Annotated[int, Field(ge=0)] = 0
    """Tokens to decode per step: from the first plan on a step takes as many problems as trees of the planned shape are
    predicted to need for them, at most 8 x train.prompts_per_step. 0: train.prompts_per_step problems at every step."""

    def __post_init__(self) -> None:
        if self.window < self.start:
            message = f"must be at least branching.start = {self.start}, the steps that a plan needs"
            raise SettingError("window", message, self.window)

    def max_problems(self, prompts_per_step: int) -> int:
        """The most problems of a step."""
        return MAX_FACTOR * prompts_per_step if self.tokens_per_step else prompts_per_step

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        shape, num_paths = level.shape, level.num_finished + level.num_active
        if shape.num_children < 2 or num_paths >= shape.width:
            return [1] * level.num_active
        num_forks = ceil(log(shape.width / num_paths) / log(shape.num_children) - 1e-9)
        # Each set of levels is as likely as any other.
        if rng.random() * (shape.depth - level.depth) >= num_forks:
            return [1] * level.num_active
        return share_evenly(within_width(level, shape.num_children * level.num_active), level.num_active, rng)

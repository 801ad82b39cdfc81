"""How many children each active path gets."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from treepo.grow.shape import TreeShape


@dataclass(frozen=True)
class Level:
    """One tree when all its active paths have finished a segment.

    num_active: paths that go on; num_finished: trajectories so far; num_just_finished: those of this level.
    """

    shape: TreeShape
    num_active: int
    num_finished: int
    num_just_finished: int


class Branching(Protocol):
    """The children of each active path, at least 1 each, in the order of the paths."""

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]: ...


@dataclass(frozen=True)
class InitialFork:
    """Children of the prompt, drawn uniformly from {low..high}.

    low = high is the fixed fork; 2..8 is the paper's "more initial divergence" (table 1). Never more than the width.
    """

    low: int = 2
    """Fewest children."""

    high: int = 2
    """Most children."""

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"low..high must be a range of numbers from 1, got {self.low}..{self.high}")

    def __call__(self, shape: TreeShape, rng: np.random.Generator) -> int:
        return min(shape.width, int(rng.integers(self.low, self.high + 1)))


def transferred_budget(level: Level) -> int:
    """Children to share at a level: finished paths pass their budget on to the active ones.

    total = max(a, min(max(w - F, 0), b (a + f))) with a active, F finished, f of them at this level (the authors'
    release completes the paper's section 2.2 like this). Active plus finished never exceed the width.
    """
    remaining = max(level.shape.width - level.num_finished, 0)
    wanted = level.shape.num_children * (level.num_active + level.num_just_finished)
    return max(level.num_active, min(remaining, wanted))


@dataclass(frozen=True)
class EvenBranching:
    """The budget in equal shares; what is left over goes one by one to randomly chosen paths.

    The authors' release gives the whole remainder to the last path.
    """

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        share, rest = divmod(transferred_budget(level), level.num_active)
        counts = np.full(level.num_active, share)
        counts[rng.permutation(level.num_active)[:rest]] += 1
        return counts.tolist()

"""Every setting of `treepo bench update`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from treepo.bench.settings import ArchitectureSettings, Counts
from treepo.bench.update.synthetic import level_sizes
from treepo.settings import Count, ModelSettings

Sharings = Annotated[tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class SyntheticSettings:
    """Balanced trees of random tokens that fork in two."""

    distinct: Count = 4000
    """Tokens of a tree with its prompt, each shared one counted once."""

    sharing: Sharings = (1.5, 2.0, 4.0, 8.0)
    """Tokens of all trajectories, each with its prompt, over distinct tokens; every value is measured."""

    leaves: Annotated[int, Field(ge=2)] = 16
    """Trajectories per tree, a power of two."""

    count: Count = 1
    """Trees per update."""

    def __post_init__(self) -> None:
        for sharing in self.sharing:
            level_sizes(self.distinct, sharing, self.leaves)


@dataclass(frozen=True)
class TaskSettings:
    """Trees of the built-in task, grown and credited as in the first step of `treepo train`."""

    widths: Counts = (8, 16)
    """Trajectories per tree; every value is measured."""

    problems: Count = 32
    """Trees that are grown; the update is on those whose rewards differ."""


@dataclass(frozen=True)
class BenchSettings:
    """How it is measured."""

    trees: Literal["synthetic", "task"] = "synthetic"
    """Trees of the section synthetic, on random weights if no model is given, or of the section task, on the built-in
    task's base model if none is given."""

    repeats: Count = 5
    """Measured rounds, after one that warms up; in each, every contender runs once."""

    micro_batch_tokens: Count = 8192
    """Most tokens of one forward, as in training."""

    gradient_checkpointing: bool = False
    """Keep one hidden state per layer and compute the others again in the backward pass."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the weights and the trees."""


@dataclass(frozen=True)
class BenchConfig:
    """All settings of `treepo bench update`."""

    model: ModelSettings = ModelSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    synthetic: SyntheticSettings = SyntheticSettings()
    task: TaskSettings = TaskSettings()
    bench: BenchSettings = BenchSettings()

"""What `treepo bench rollout` keeps, as far as it is drawn."""

import re
from dataclasses import dataclass

from treepo.printable import printable
from treepo.report.figures.source import Seconds, Source

TREE = re.compile(r"tree (\d+)x(\d+) (.*)")
"""A tree's name: depth x segment length, then children of the prompt and of forks, and what forks are aligned to."""


@dataclass(frozen=True)
class Counts:
    """What a contender produced and what it took."""

    num_trajectories: int
    num_total: int
    num_decoded: int


@dataclass(frozen=True)
class Contender:
    """One way of sampling; the fields are those of treepo.bench.measure.Figures."""

    name: str
    seconds: Seconds
    counts: Counts
    trajectories_per_s: float
    decoded_per_s: float
    ideal: float
    over_sequential: float | None = None

    @property
    def label(self) -> str:
        """The name, as it may be shown."""
        return printable(self.name)

    @property
    def tree(self) -> tuple[int, int, str] | None:
        """(depth, segment length, how it forks) of a tree, None for the others."""
        match = TREE.fullmatch(self.name)
        return (int(match[1]), int(match[2]), printable(match[3])) if match else None


@dataclass(frozen=True)
class Workload:
    """Contenders that sampled as many trajectories of as many tokens."""

    num_prompts: int
    width: int
    response_len: int
    contenders: tuple[Contender, ...]

    @property
    def title(self) -> str:
        """Trajectories per prompt and their length."""
        return f"{self.width} trajectories of {self.response_len} tokens"


@dataclass(frozen=True)
class RolloutFile(Source):
    """All workloads that were measured."""

    workloads: tuple[Workload, ...] = ()

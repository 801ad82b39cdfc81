"""The results of a benchmark, as `rollout.json` and `update.json` hold them.

`treepo bench` writes them and `treepo report` reads them through the same types.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter

from treepo.utils.io import replace_bytes
from treepo.utils.text import sanitize

W = TypeVar("W")

Seconds = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
"""Seconds of each measured round."""


@dataclass(frozen=True)
class BenchReport(Generic[W]):
    """One benchmark with everything that it depends on; W: the type of its workloads."""

    command: str
    machine: dict[str, Any]
    model: dict[str, Any]
    settings: dict[str, Any]
    workloads: tuple[W, ...]

    @property
    def note(self) -> str:
        """Model, machine and command in one line."""
        model = ", ".join(f"{self.model[key]}" for key in ("path", "type") if key in self.model)
        parameters = self.model.get("parameters")
        size = [f"{parameters / 1e6:,.1f}M parameters"] if isinstance(parameters, int) else []
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        return "; ".join(sanitize(part) for part in (model, *size, machine, self.command) if part)


@dataclass(frozen=True)
class RolloutCounts:
    """What one run of a variant produced and computed.

    num_total: tokens of all trajectories, without prompts. num_decoded: tokens that were decoded for them.
    num_prefilled: prompt tokens that were computed, without padding. num_distinct: tokens of the trajectories, shared
    ones once. kv_peak: most tokens with keys and values in memory at a time; None if unknown.
    """

    num_trajectories: int
    num_total: int
    num_decoded: int
    num_prefilled: int
    num_distinct: int
    kv_peak: int | None


@dataclass(frozen=True)
class RolloutMeasurement:
    """One variant: its seconds in each measured round, and the counts of a run."""

    name: str
    seconds: Seconds
    counts: RolloutCounts


@dataclass(frozen=True)
class RolloutStats(RolloutMeasurement):
    """One variant compared with sequential sampling; rates are by the median of its seconds.

    total_per_s: trajectory tokens, which is what sequential sampling decodes. decoded_per_s, forwarded_per_s: decoded
    tokens, without and with computed prompt tokens. distinct_ratio: distinct trajectory tokens over all. ideal:
    trajectory tokens per decoded token, the speedup if time were proportional to decoded tokens. ideal_with_prompts:
    the same with decoded and prefilled tokens, relative to sequential sampling. over_sequential: trajectories per
    second over those of sequential sampling. achieved: over_sequential / ideal.
    """

    trajectories_per_s: float
    total_per_s: float
    decoded_per_s: float
    forwarded_per_s: float
    distinct_ratio: float
    ideal: float
    ideal_with_prompts: float
    over_sequential: float
    achieved: float


@dataclass(frozen=True)
class RolloutWorkload:
    """Variants that sampled `num_prompts` x `width` trajectories of up to `response_len` tokens."""

    num_prompts: int
    width: int
    response_len: int
    variants: tuple[RolloutStats, ...]


RolloutReport = BenchReport[RolloutWorkload]


@dataclass(frozen=True)
class UpdateMeasurement:
    """One variant of an update: its seconds in each measured round, and its tokens, memory and gradients.

    num_forwarded: tokens, with padding. pack_seconds: the part of `seconds` before the first forward. peak_bytes: most
    bytes of tensors at a time beyond those before the update. gradient_difference: the largest difference of an element
    to the padded variant, over the largest element there.
    """

    name: str
    num_forwarded: int
    seconds: Seconds
    pack_seconds: tuple[float, ...]
    peak_bytes: int
    gradient_difference: float


@dataclass(frozen=True)
class UpdateStats(UpdateMeasurement):
    """One variant compared with the packed one.

    token_ratio, time_ratio, memory_ratio: its tokens, seconds (median over rounds) and peak memory over those of the
    packed update. time_of_ideal, memory_of_ideal: time_ratio and memory_ratio over token_ratio; 1 if packing saves as
    much as it saves tokens.
    """

    token_ratio: float
    time_ratio: float
    time_of_ideal: float
    memory_ratio: float
    memory_of_ideal: float


@dataclass(frozen=True)
class UpdateWorkload:
    """Variants that made the same update.

    num_distinct, num_total: tokens with prompts, shared ones once, and summed over trajectories.
    """

    num_trees: int
    num_trajectories: int
    num_distinct: PositiveInt
    num_total: int
    variants: tuple[UpdateStats, ...]

    @property
    def sharing(self) -> float:
        """Tokens of trajectories per distinct token."""
        return self.num_total / self.num_distinct


UpdateReport = BenchReport[UpdateWorkload]

ROLLOUT_NAME, UPDATE_NAME = "rollout.json", "update.json"


def write_json(report: object, path: Path) -> None:
    """Write a report, or another dataclass. Raises OSError."""
    replace_bytes(path, TypeAdapter(type(report)).dump_json(report, indent=1) + b"\n")


def read_rollout(path: Path) -> RolloutReport:
    """Read the report of `treepo bench rollout`."""
    return TypeAdapter(RolloutReport).validate_json(path.read_bytes())


def read_update(path: Path) -> UpdateReport:
    """Read the report of `treepo bench update`."""
    return TypeAdapter(UpdateReport).validate_json(path.read_bytes())

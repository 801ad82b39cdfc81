"""Variants timed in turns, and the statistics of their times."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Protocol

from treepo.bench.rollout_variants import Contender, Counts

Progress = Callable[[int, int, float], None]
"""Called after each run with (runs done, runs in all, seconds of this one)."""


class Timed(Protocol):
    """`run` alone is timed."""

    def prepare(self) -> None:
        """Forget what earlier runs did."""
        ...

    def run(self) -> None:
        """Do the work; it is done when this returns."""
        ...


def time_in_turns(contenders: Sequence[Timed], repeats: int, progress: Progress) -> list[tuple[float, ...]]:
    """Run all contenders once to warm up, then `repeats` times in turns; per contender its seconds in each round."""
    seconds: list[list[float]] = [[] for _ in contenders]
    num_runs = (repeats + 1) * len(contenders)
    for run in range(num_runs):
        index = run % len(contenders)
        contenders[index].prepare()
        gc.collect()
        start = perf_counter()
        contenders[index].run()
        elapsed = perf_counter() - start
        if run >= len(contenders):
            seconds[index].append(elapsed)
        progress(run + 1, num_runs, elapsed)
    return [tuple(s) for s in seconds]


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds of seconds / others."""
    return median(own / other for own, other in zip(seconds, others, strict=True))


SEQUENTIAL = "sequential"
"""Name of the contender that all others are compared with."""


@dataclass(frozen=True)
class Measurement:
    """One contender: its seconds per measured round, and what a run of it takes."""

    name: str
    seconds: tuple[float, ...]
    counts: Counts


@dataclass(frozen=True)
class Figures:
    """One contender compared with sequential sampling; per second means by the median of its seconds.

    total_per_s: trajectory tokens, which is what sequential sampling decodes. decoded_per_s, forwarded_per_s: tokens
    really decoded, and those with the prompt tokens that were computed. distinct_ratio: distinct trajectory tokens of
    all of them. ideal: trajectory tokens per decoded token, how much faster it would be if time went by decoded tokens
    alone. ideal_with_prompts: tokens that sequential sampling decodes and prefills per token that this one does, for
    as many trajectory tokens. over_sequential: trajectories/s over those of sequential sampling. achieved:
    over_sequential / ideal.
    """

    name: str
    seconds: tuple[float, ...]
    counts: Counts
    trajectories_per_s: float
    total_per_s: float
    decoded_per_s: float
    forwarded_per_s: float
    distinct_ratio: float
    ideal: float
    ideal_with_prompts: float
    over_sequential: float
    achieved: float


def measure(contenders: Sequence[Contender], repeats: int, progress: Progress) -> list[Measurement]:
    """Run all contenders once to warm up, then `repeats` times in turns."""
    seconds = time_in_turns(contenders, repeats, progress)
    return [Measurement(c.name, s, c.counts()) for c, s in zip(contenders, seconds, strict=True)]


def compare(measurement: Measurement, sequential: Measurement) -> Figures:
    """The figures of one contender; of sequential sampling itself all ratios to it are 1."""
    counts, base = measurement.counts, sequential.counts
    typical = median(measurement.seconds)
    forwarded = counts.num_decoded + counts.num_prefilled
    ideal = counts.num_total / counts.num_decoded
    with_prompts = (base.num_decoded + base.num_prefilled) / base.num_total * counts.num_total / forwarded
    share = counts.num_trajectories / base.num_trajectories
    ratio = share * median_ratio(sequential.seconds, measurement.seconds)
    return Figures(
        name=measurement.name,
        seconds=measurement.seconds,
        counts=counts,
        trajectories_per_s=counts.num_trajectories / typical,
        total_per_s=counts.num_total / typical,
        decoded_per_s=counts.num_decoded / typical,
        forwarded_per_s=forwarded / typical,
        distinct_ratio=counts.num_distinct / counts.num_total,
        ideal=ideal,
        ideal_with_prompts=with_prompts,
        over_sequential=ratio,
        achieved=ratio / ideal,
    )

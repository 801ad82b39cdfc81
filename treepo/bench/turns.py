"""Timing in turns.

Ratios are taken within each round, where the contenders ran one right after another, and their median is reported: what
else the machine was doing changes from round to round and touches both sides of a ratio alike.
"""

import gc
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Protocol

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

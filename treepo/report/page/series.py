"""Metrics as a page holds them: short, finite numbers at a limited number of steps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np

T = TypeVar("T")

MAX_POINTS = 2000

SECONDS = ("time/step_s", "time/checkpoint_s")
"""Metrics that add up to the time of a run."""


def short(value: float, digits: int = 6) -> float | None:
    """The value with so many significant digits; None if it is not finite."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    # Whole numbers are a character shorter without their ".0".
    return int(rounded) if rounded.is_integer() else rounded


def shorts(values: Iterable[float]) -> list[float | None]:
    return [short(value) for value in values]


def thousandths(values: np.ndarray) -> list[float | None]:
    """Rounded to three decimals."""
    # A float32 that is rounded is still one, and written with all the digits of the float64 next to it.
    rounded = np.round(values.astype(np.float64), 3).tolist()
    return [(value or 0) if math.isfinite(value) else None for value in rounded]


@dataclass(frozen=True)
class MetricSeries:
    """The metrics of a run by name, aligned with `steps`; None where a step has no value.

    tokens, seconds: decoded tokens and training time from the start to each step. note: what was left out, or empty.
    """

    steps: list[int]
    metrics: dict[str, list[float | None]]
    tokens: list[float | None]
    seconds: list[float | None]
    note: str


def series_of(metrics: Mapping[int, Mapping[str, float]], max_points: int = MAX_POINTS) -> MetricSeries:
    """All metrics, at no more than `max_points` steps: evaluated ones first, the rest at even distances."""
    every = list(metrics)
    steps = thinned(every, [step for step in every if "eval/avg" in metrics[step]], max_points)
    names = dict.fromkeys(name for step in steps for name in metrics[step])
    values = {name: [short(metrics[s][name]) if name in metrics[s] else None for s in steps] for name in names}

    def so_far(*summed: str) -> list[float | None]:
        sums = accumulate(sum(own.get(name, 0.0) for name in summed) for own in metrics.values())
        by_step = dict(zip(metrics, sums, strict=True))
        return shorts(by_step[step] for step in steps)

    note = f"metrics at {len(steps)} of {len(every)} steps" if len(steps) < len(every) else ""
    return MetricSeries(steps, values, so_far("tokens/decoded"), so_far(*SECONDS), note)


def thinned(steps: Sequence[int], wanted: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, in order, with the first and the last.

    Up to half of them are of those that are `wanted`, the rest of the others, each at even distances.
    """
    if len(steps) <= most:
        return list(steps)
    chosen = set(spread(wanted, most // 2))
    others = [step for step in steps if step not in chosen]
    return sorted(chosen | set(spread(others, most - len(chosen))))


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items at even distances with the first and the last, or all if there are fewer; for 1 the last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int).tolist()]

"""The metrics of a run as series over its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np

from treepo.report.page.numbers import short, shorts

T = TypeVar("T")

MAX_POINTS = 2000

SECONDS = ("time/step_s", "time/checkpoint_s")


@dataclass(frozen=True)
class Series:
    """Values by name, aligned with `steps`, None where there is none. tokens, seconds: decoded, and taken by training,
    from the beginning to each step. note: what was left out, or empty."""

    steps: list[int]
    metrics: dict[str, list[float | None]]
    tokens: list[float | None]
    seconds: list[float | None]
    note: str


def series_of(metrics: Mapping[int, Mapping[str, float]], max_points: int = MAX_POINTS) -> Series:
    """All of them, at no more than `max_points` steps: evaluated ones first, the rest at even distances."""
    every = list(metrics)
    steps = thinned(every, [step for step in every if "eval/avg" in metrics[step]], max_points)
    names = dict.fromkeys(name for step in steps for name in metrics[step])
    values = {name: [short(metrics[step][name]) if name in metrics[step] else None for step in steps] for name in names}
    tokens = _so_far(metrics, ("tokens/decoded",))
    seconds = _so_far(metrics, SECONDS)
    note = f"metrics at {len(steps)} of {len(every)} steps" if len(steps) < len(every) else ""
    return Series(steps, values, shorts(tokens[s] for s in steps), shorts(seconds[s] for s in steps), note)


def thinned(steps: Sequence[int], wanted: Sequence[int], most: int) -> list[int]:
    """At most so many steps, in their order, the first and the last among them: of those that are wanted up to half as
    many, and of the others as many as there is room for, each at even distances."""
    if len(steps) <= most:
        return list(steps)
    chosen = set(spread(wanted, most // 2))
    others = [step for step in steps if step not in chosen]
    return sorted(chosen | set(spread(others, most - len(chosen))))


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many at even distances, the first and the last among them, or all if they are no more; of one, the last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int).tolist()]


def _so_far(metrics: Mapping[int, Mapping[str, float]], names: Sequence[str]) -> dict[int, float]:
    sums = accumulate(sum(own.get(name, 0.0) for name in names) for own in metrics.values())
    return dict(zip(metrics, sums, strict=True))

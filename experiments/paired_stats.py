"""Accuracy of paired runs at equal cost, differences and ratios over seeds with 95% intervals, tables, a figure."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import mpmath
import numpy as np

Point = dict[str, float]
"""What a run had spent since it began (`step` and COSTS), and what it reached: avg, maj and greedy."""

Curves = dict[str, dict[str, list[Point]]]
"""label -> seed -> points in their order, the untrained model first. Others are compared with the first label."""

COSTS = ("decoded", "forwarded", "cpu_s", "wall_s")
UNITS = {
    "step": "steps",
    "decoded": "tokens decoded",
    "forwarded": "tokens forwarded",
    "cpu_s": "s of processor",
    "wall_s": "s on the clock",
}
LEVEL = 0.95


@cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Student's t: within +- this lies `level` of the distribution with so many degrees of freedom."""

    def excess(t: float) -> Any:
        return mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) - (1 - level)

    return float(mpmath.findroot(excess, (0.1, 1000.0), solver="bisect", tol=1e-9, verify=False))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the width of its 95% t interval); infinite for a single value."""
    if len(values) < 2:
        return fmean(values), float("inf")
    return fmean(values), t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))


def ratio_interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """(ratio of the medians, 95% t interval of the geometric mean of the paired ratios)."""
    middle, half = mean_interval([log(one / other) for one, other in zip(values, others, strict=True)])
    low, high = (exp(middle - half), exp(middle + half)) if half < float("inf") else (0.0, float("inf"))
    return median(values) / median(others), low, high


def at_cost(points: Sequence[Point], cost: str, spent: float, score: str) -> float:
    """The score when so much was spent, on a line between the points before and after; the last one's beyond."""
    return float(np.interp(spent, [p[cost] for p in points], [p[score] for p in points]))


def cost_to(points: Sequence[Point], cost: str, target: float, score: str = "avg") -> float | None:
    """What was spent when the score first reached the target, on a line between points; None if it never did."""
    before = points[0]
    for point in points:
        if point[score] >= target:
            gained = point[score] - before[score]
            share = (target - before[score]) / gained if gained > 0 else 1.0
            return before[cost] + max(share, 0.0) * (point[cost] - before[cost])
        before = point
    return None


def least_cost(curves: Curves, cost: str) -> float:
    """What the run had spent at its end that spent least."""
    return min(points[-1][cost] for of_label in curves.values() for points in of_label.values())


def tables(curves: Curves, target: float) -> str:
    """All tables as Markdown."""
    parts = {
        "avg, percent, at equal cost": at_equal_cost(curves, "avg", 1.0),
        "maj, percent, at equal cost": at_equal_cost(curves, "maj", 1.0),
        f"To {target:.0%} avg": to_target(curves, target),
        "A step, and answers at the end": run_means(curves),
    }
    return "\n\n".join(f"{head}:\n\n{table}" for head, table in parts.items())


def with_tables(page: str, name: str, shown: str) -> str:
    """The page with these tables between the marks of that name, in place of what stood there, if it has them."""
    before, mark, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    return f"{before}{mark}\n{shown}\n\n{end}{after}" if end else page


def at_equal_cost(curves: Curves, score: str, share: float) -> str:
    """Markdown: a row per variant, a column per cost; mean over seeds and paired difference to the first variant."""
    spent = {cost: share * least_cost(curves, cost) for cost in UNITS}
    heads = [f"{amount:,.0f} {UNITS[cost]}" for cost, amount in spent.items()]

    def cell(label: str, cost: str) -> str:
        own, base = (values_at(curves[name], cost, spent[cost], score) for name in (label, next(iter(curves))))
        shown = f"{100 * fmean(own):.1f}"
        if label == next(iter(curves)):
            return shown
        return f"{shown} ({signed(*mean_interval([100 * (a - b) for a, b in zip(own, base, strict=True)]))})"

    return markdown(["", *heads], [[label, *(cell(label, cost) for cost in UNITS)] for label in curves])


def values_at(of_label: Mapping[str, Sequence[Point]], cost: str, spent: float, score: str) -> list[float]:
    """The score of each seed at a cost."""
    return [at_cost(points, cost, spent, score) for points in of_label.values()]


def to_target(curves: Curves, target: float) -> str:
    """Markdown: median cost to the target, and its ratio to the first variant's.

    No ratio where a seed never reaches it: those that do are the fast ones.
    """
    base = next(iter(curves))

    def cell(label: str, cost: str) -> str:
        own = {seed: cost_to(points, cost, target) for seed, points in curves[label].items()}
        known = {seed: value for seed, value in own.items() if value is not None}
        if not known:
            return "never"
        shown = (
            f"{median(known.values()):,.1f}"
            if cost in ("step", "cpu_s", "wall_s")
            else f"{median(known.values()):,.0f}"
        )
        if len(known) < len(own):
            shown += f" ({len(known)} of {len(own)})"
        others = [cost_to(points, cost, target) for points in curves[base].values()]
        pairs = [(known.get(seed), other) for seed, other in zip(own, others, strict=True)]
        if label == base or any(one is None or not other for one, other in pairs):
            return shown
        return f"{shown}: {'{:.2f} ({:.2f} to {:.2f})'.format(*ratio_interval(*zip(*pairs, strict=True)))}"

    rows = [[label, *(cell(label, cost) for cost in UNITS)] for label in curves]
    return markdown(["", *UNITS.values()], rows)


def run_means(curves: Curves) -> str:
    """Markdown: what a step costs, and how answers are at the end of training."""
    heads = [
        "",
        "decoded / step",
        "forwarded / step",
        "s of processor / step",
        "length at the end",
        "entropy at the end",
    ]
    ends = {label: [points[-1] for points in of_label.values()] for label, of_label in curves.items()}

    def cell(label: str, of: Callable[[Point], float], digits: int) -> str:
        middle, half = mean_interval([of(point) for point in ends[label]])
        return f"{middle:,.{digits}f} ± {half:,.{digits}f}"

    rows = [
        [
            label,
            cell(label, lambda p: p["decoded"] / p["step"], 0),
            cell(label, lambda p: p["forwarded"] / p["step"], 0),
            cell(label, lambda p: p["cpu_s"] / p["step"], 3),
            cell(label, lambda p: p["completions/length/mean"], 1),
            cell(label, lambda p: p["entropy"], 4),
        ]
        for label in curves
    ]
    return markdown(heads, rows)


def signed(middle: float, half: float) -> str:
    """A difference with its interval."""
    return f"{middle:+.1f} ± {half:.1f}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(curves: Curves, path: Path) -> None:
    """avg against steps, tokens decoded, seconds of the processor: thin lines of seeds, a thick one of their mean."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - figures only

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for axes, cost in zip(figure.subplots(1, 3, sharey=True), ("step", "decoded", "cpu_s"), strict=True):
        for number, (label, of_label) in enumerate(curves.items()):
            for points in of_label.values():
                own = [p[cost] for p in points], [100 * p["avg"] for p in points]
                axes.plot(*own, color=f"C{number}", alpha=0.25, linewidth=0.8)
            grid = np.linspace(0, min(points[-1][cost] for points in of_label.values()), 60)
            mean = [100 * fmean(values_at(of_label, cost, spent, "avg")) for spent in grid]
            axes.plot(grid, mean, color=f"C{number}", label=label)
        axes.set_xlabel(UNITS[cost])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("held-out accuracy, %")
    figure.axes[-1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)

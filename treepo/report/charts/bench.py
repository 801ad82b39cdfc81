"""Charts of `treepo bench`: the speed of rollouts over the grid; tokens, time and memory of updates."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal, NamedTuple

from treepo.report.bench_results import RolloutReport, RolloutStats, RolloutWorkload, UpdateReport
from treepo.report.charts.base import Axis, Chart, ChartSeries, Heatmap
from treepo.utils.text import sanitize

TREE = re.compile(r"tree (\d+)x(\d+) (.*)")
"""The name of a tree variant: depth x segment length, then children of the prompt and of forks, and alignment."""

MOST_BARS = 64
"""More bars cannot be told apart; the other charts show the same values."""


@dataclass(frozen=True)
class Measure:
    """A value of a variant. amount: what `value` counts per second, if anything, for its range over rounds. middle: see
    `Heatmap`."""

    id: str
    title: str
    value: Callable[[Any], float | None]
    amount: Callable[[Any], int] | None = None
    middle: float | None = None


SPEED = Measure("speed", "trajectories per second", lambda v: v.trajectories_per_s, lambda v: v.counts.num_trajectories)
TOKENS = Measure("tokens", "tokens decoded per second", lambda v: v.decoded_per_s, lambda v: v.counts.num_decoded)
SHARING = Measure("sharing", "trajectory tokens per decoded token", lambda v: v.ideal)
RATIO = Measure("ratio", "speed over sequential sampling", lambda v: v.over_sequential, middle=1.0)

UPDATE_MEASURES = (
    Measure("tokens", "tokens forwarded", lambda v: v.num_forwarded),
    Measure("seconds", "seconds per update", lambda v: median(v.seconds)),
    Measure("memory", "peak memory of tensors, MiB", lambda v: v.peak_bytes / 2**20),
)
UPDATE_RATIOS = (
    Measure("time", "time over the packed update's", lambda v: v.time_ratio),
    Measure("memory", "memory over the packed update's", lambda v: v.memory_ratio),
)


class Point(NamedTuple):
    """The place of a variant on the horizontal axis, and its label."""

    x: str | float
    variant: Any
    text: str | None = None


Points = Iterable[tuple[str, Sequence[Point]]]
"""Name and points of each series."""


def _charts(
    measures: Sequence[Measure],
    points: Points,
    *,
    kind: Literal["line", "scatter", "bar"],
    x: Axis,
    name: str,
    title: str,
) -> list[Chart]:
    """A chart of each measure. name, title: formats of the measure."""
    return [
        Chart(
            id=name.format(measure),
            title=title.format(measure),
            note="",
            kind=kind,
            x=x,
            y=Axis(measure.title),
            series=tuple(_series(measure, name, own) for name, own in points),
        )
        for measure in measures
    ]


def _series(measure: Measure, name: str, points: Sequence[Point]) -> ChartSeries:
    """The value at each point, with its range over rounds."""
    variants = [point.variant for point in points]
    low = high = None
    if measure.amount is not None:
        low = tuple(measure.amount(v) / max(v.seconds) for v in variants)
        high = tuple(measure.amount(v) / min(v.seconds) for v in variants)
    texts = tuple(point.text for point in points if point.text is not None)
    values = tuple(map(measure.value, variants))
    return ChartSeries(name, tuple(point.x for point in points), values, low, high, texts or None)


def rollout_charts(report: RolloutReport) -> list[Chart]:
    """Bars by variant, or heatmaps of the grid, and curves over widths and depths if there are several.

    Depths are shown as a heatmap if each has several segment lengths, else as one curve per response length.
    """
    of_length: dict[int, list[RolloutWorkload]] = defaultdict(list)
    for workload in report.workloads:
        of_length[workload.response_len].append(workload)
    grids = _grids(report.workloads)
    num_bars = len(report.workloads) * len({v.name for workload in report.workloads for v in workload.variants})
    charts = _bars(report.workloads) if not grids and num_bars <= MOST_BARS else []
    for length, own in of_length.items():
        charts += _over_widths(length, own)
    if not grids:
        for length, own in of_length.items():
            charts += _over_depths(length, own)
    return [replace(chart, note=report.note) for chart in charts + grids]


def _bars(workloads: Iterable[RolloutWorkload]) -> list[Chart]:
    points = []
    for workload in workloads:
        labels = [sanitize(v.name) for v in workload.variants]
        own = [Point(label, v, label) for label, v in zip(labels, workload.variants, strict=True)]
        points.append((f"{workload.width} trajectories of {workload.response_len} tokens", own))
    return _charts(
        (SPEED, TOKENS, SHARING, RATIO),
        points,
        kind="bar",
        x=Axis("variant"),
        name="rollout-{0.id}",
        title="Rollouts: {0.title}",
    )


def _over_widths(length: int, workloads: Sequence[RolloutWorkload]) -> list[Chart]:
    """Speed against trajectories per prompt."""
    if len({w.width for w in workloads}) < 2:
        return []
    points: dict[str, list[Point]] = defaultdict(list)
    for workload in sorted(workloads, key=lambda w: w.width):
        for variant in workload.variants:
            label = sanitize(variant.name)
            points[label].append(Point(workload.width, variant, label))
    return _lines(f"widths-{length}", f"by width, {length} tokens each", "trajectories per prompt", points)


def _over_depths(length: int, workloads: Sequence[RolloutWorkload]) -> list[Chart]:
    """Speed against the depth of a trajectory at the same length, depth x segment length."""
    points = {
        name: sorted((Point(depth, v, sanitize(v.name)) for depth, _, v in own), key=lambda point: point.x)
        for name, own in _trees(workloads).items()
    }
    if all(len({point.x for point in own}) < 2 for own in points.values()):
        return []
    return _lines(f"depths-{length}", f"by depth, {length} tokens each", "depth in segments", points)


def _lines(name: str, about: str, x_title: str, points: dict[str, list[Point]]) -> list[Chart]:
    return _charts(
        (SPEED, RATIO),
        points.items(),
        kind="line",
        x=Axis(x_title, log=True),
        name=f"rollout-{name}-{{0.id}}",
        title=f"Rollouts: {{0.title}}, {about}",
    )


def _trees(workloads: Iterable[RolloutWorkload]) -> dict[str, list[tuple[int, int, RolloutStats]]]:
    """(depth, segment length, variant) of each tree, by width and fork settings."""
    trees: dict[str, list[tuple[int, int, RolloutStats]]] = defaultdict(list)
    for workload in workloads:
        for variant in workload.variants:
            if match := TREE.fullmatch(variant.name):
                name = f"width {workload.width}, {sanitize(match[3])}"
                trees[name].append((int(match[1]), int(match[2]), variant))
    return trees


def _grids(workloads: Iterable[RolloutWorkload]) -> list[Chart]:
    """Depth x segment length, for each width and fork setting that covers more than a diagonal."""
    charts = []
    for name, trees in _trees(workloads).items():
        cells = {(depth, segment_len): variant for depth, segment_len, variant in trees}
        depths, segment_lens = (tuple(sorted(set(sizes))) for sizes in zip(*cells, strict=True))
        if min(len(depths), len(segment_lens)) == 1 or len(cells) <= max(len(depths), len(segment_lens)):
            continue
        for measure in (SPEED, RATIO, SHARING):
            values = {cell: measure.value(variant) for cell, variant in cells.items()}
            rows = tuple(tuple(values.get((depth, size)) for size in segment_lens) for depth in depths)
            chart = Chart(
                id=re.sub(r"\W+", "-", f"rollout-grid-{name}-{measure.id}"),
                title=f"Rollouts: {measure.title}, {name}",
                note="",
                kind="heatmap",
                x=Axis("tokens per segment", values=segment_lens),
                y=Axis("depth in segments", values=depths),
                heatmap=Heatmap(measure.title, rows, measure.middle),
            )
            charts.append(chart)
    return charts


def update_charts(report: UpdateReport) -> list[Chart]:
    """Bars of tokens, seconds and memory by workload; time and memory ratios to the packed update against tokens."""
    bars: dict[str, list[Point]] = defaultdict(list)
    ratios: dict[str, list[Point]] = defaultdict(list)
    for workload in report.workloads:
        label = f"{workload.sharing:.2f} ({workload.num_trajectories})"
        for variant in workload.variants:
            bars[sanitize(variant.name)].append(Point(label, variant))
            ratios[sanitize(variant.name)].append(Point(variant.token_ratio, variant, label))
    by_ratio = [(name, sorted(own, key=lambda point: point.x)) for name, own in ratios.items()]
    sharing = Axis("trajectory tokens per distinct token (trajectories)")
    tokens = Axis("tokens forwarded over the packed update's")
    charts = [
        *_charts(
            UPDATE_MEASURES, bars.items(), kind="bar", x=sharing, name="update-{0.id}", title="Updates: {0.title}"
        ),
        *_charts(
            UPDATE_RATIOS,
            by_ratio,
            kind="scatter",
            x=tokens,
            name="update-{0.id}-ratio",
            title="Updates: {0.id} against tokens",
        ),
    ]
    return [replace(chart, note=report.note) for chart in charts]

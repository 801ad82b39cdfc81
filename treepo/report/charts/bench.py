"""Charts of `treepo bench`: the speed of rollouts over the grid; tokens, time and memory of updates."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from treepo.report.bench_results import (
    RolloutReport,
    RolloutStats,
    RolloutWorkload,
    UpdateReport,
    UpdateStats,
    UpdateWorkload,
)
from treepo.report.charts.base import Axis, Chart, ChartSeries, Heatmap
from treepo.utils.text import sanitize

TREE = re.compile(r"tree (\d+)x(\d+) (.*)")
"""The name of a tree variant: depth x segment length, then children of the prompt and of forks, and alignment."""


def _label(variant: RolloutStats | UpdateStats) -> str:
    return sanitize(variant.name)


def _title(workload: RolloutWorkload) -> str:
    return f"{workload.width} trajectories of {workload.response_len} tokens"


def _tree(variant: RolloutStats) -> tuple[int, int, str] | None:
    """(depth, segment length, fork settings) of a tree variant, None for the others."""
    match = TREE.fullmatch(variant.name)
    return (int(match[1]), int(match[2]), sanitize(match[3])) if match else None


MOST_BARS = 64
"""More bars cannot be told apart; the other charts show the same values."""


@dataclass(frozen=True)
class Measure:
    """A value of a variant. amount: what `value` counts per second, if anything, for its range over rounds. middle: see
    `Heatmap`."""

    id: str
    title: str
    value: Callable[[RolloutStats], float | None]
    amount: Callable[[RolloutStats], int] | None = None
    middle: float | None = None

    def series(self, name: str, x: Sequence[str | int], variants: Sequence[RolloutStats]) -> ChartSeries:
        """One point per variant, with its range over rounds and its name."""
        low = high = None
        if self.amount is not None:
            low = tuple(self.amount(v) / max(v.seconds) for v in variants)
            high = tuple(self.amount(v) / min(v.seconds) for v in variants)
        values, labels = tuple(map(self.value, variants)), tuple(_label(v) for v in variants)
        return ChartSeries(name, tuple(x), values, low, high, labels)


SPEED = Measure("speed", "trajectories per second", lambda v: v.trajectories_per_s, lambda v: v.counts.num_trajectories)
TOKENS = Measure("tokens", "tokens decoded per second", lambda v: v.decoded_per_s, lambda v: v.counts.num_decoded)
SHARING = Measure("sharing", "trajectory tokens per decoded token", lambda v: v.ideal)
RATIO = Measure("ratio", "speed over sequential sampling", lambda v: v.over_sequential, middle=1.0)


def rollout_charts(report: RolloutReport) -> list[Chart]:
    """Bars by variant, or heatmaps of the grid, and curves over widths and depths if there are several.

    Depths are shown as a heatmap if each has several segment lengths, else as one curve per response length.
    """
    lengths = dict.fromkeys(workload.response_len for workload in report.workloads)
    of_length = {length: [w for w in report.workloads if w.response_len == length] for length in lengths}
    grids = _grids(report)
    num_bars = len(report.workloads) * len({_label(v) for workload in report.workloads for v in workload.variants})
    charts = _bars(report) if not grids and num_bars <= MOST_BARS else []
    for length, own in of_length.items():
        charts += _over_widths(report.note, length, own)
    if not grids:
        for length, own in of_length.items():
            charts += _over_depths(report.note, length, own)
    return charts + grids


def _bars(report: RolloutReport) -> list[Chart]:
    charts = []
    for measure in (SPEED, TOKENS, SHARING, RATIO):
        series = [measure.series(_title(w), [_label(v) for v in w.variants], w.variants) for w in report.workloads]
        chart = Chart(
            id=f"rollout-{measure.id}",
            title=f"Rollouts: {measure.title}",
            note=report.note,
            kind="bar",
            x=Axis("variant"),
            y=Axis(measure.title),
            series=tuple(series),
        )
        charts.append(chart)
    return charts


Points = Mapping[str, Sequence[tuple[int, RolloutStats]]]
"""By name of a series: its (position, variant) pairs in order."""


def _over_widths(note: str, length: int, workloads: Sequence[RolloutWorkload]) -> list[Chart]:
    """Speed against trajectories per prompt."""
    if len({w.width for w in workloads}) < 2:
        return []
    points: dict[str, list[tuple[int, RolloutStats]]] = {}
    for workload in sorted(workloads, key=lambda w: w.width):
        for variant in workload.variants:
            points.setdefault(_label(variant), []).append((workload.width, variant))
    return _lines(note, f"widths-{length}", f"by width, {length} tokens each", "trajectories per prompt", points)


def _over_depths(note: str, length: int, workloads: Sequence[RolloutWorkload]) -> list[Chart]:
    """Speed against the depth of a trajectory at the same length, depth x segment length."""
    points: dict[str, list[tuple[int, RolloutStats]]] = {}
    for workload in workloads:
        for variant in workload.variants:
            if (tree := _tree(variant)) is not None:
                depth, _, forks = tree
                points.setdefault(f"width {workload.width}, {forks}", []).append((depth, variant))
    if all(len({depth for depth, _ in own}) < 2 for own in points.values()):
        return []
    points = {name: sorted(own, key=lambda point: point[0]) for name, own in points.items()}
    return _lines(note, f"depths-{length}", f"by depth, {length} tokens each", "depth in segments", points)


def _lines(note: str, name: str, about: str, x_title: str, points: Points) -> list[Chart]:
    charts = []
    for measure in (SPEED, RATIO):
        series = [measure.series(label, *zip(*own, strict=True)) for label, own in points.items()]
        chart = Chart(
            id=f"rollout-{name}-{measure.id}",
            title=f"Rollouts: {measure.title}, {about}",
            note=note,
            kind="line",
            x=Axis(x_title, log=True),
            y=Axis(measure.title),
            series=tuple(series),
        )
        charts.append(chart)
    return charts


def _grids(report: RolloutReport) -> list[Chart]:
    """Depth x segment length, for each width and fork setting that covers more than a diagonal."""
    grids: dict[str, dict[tuple[int, int], RolloutStats]] = {}
    for workload in report.workloads:
        for variant in workload.variants:
            if (tree := _tree(variant)) is not None:
                depth, segment_len, forks = tree
                grids.setdefault(f"width {workload.width}, {forks}", {})[depth, segment_len] = variant
    charts = []
    for name, cells in grids.items():
        num_depths, num_segment_lens = (len(set(sizes)) for sizes in zip(*cells, strict=True))
        if min(num_depths, num_segment_lens) > 1 and len(cells) > max(num_depths, num_segment_lens):
            charts += [_heatmap(report.note, name, measure, cells) for measure in (SPEED, RATIO, SHARING)]
    return charts


def _heatmap(note: str, name: str, measure: Measure, cells: Mapping[tuple[int, int], RolloutStats]) -> Chart:
    depths, segment_lens = (tuple(sorted(set(sizes))) for sizes in zip(*cells, strict=True))
    by_cell = {cell: measure.value(variant) for cell, variant in cells.items()}
    rows = tuple(tuple(by_cell.get((depth, size)) for size in segment_lens) for depth in depths)
    return Chart(
        id=re.sub(r"\W+", "-", f"rollout-grid-{name}-{measure.id}"),
        title=f"Rollouts: {measure.title}, {name}",
        note=note,
        kind="heatmap",
        x=Axis("tokens per segment", values=segment_lens),
        y=Axis("depth in segments", values=depths),
        heatmap=Heatmap(measure.title, rows, measure.middle),
    )


def update_charts(report: UpdateReport) -> list[Chart]:
    """Bars of tokens, seconds and memory by workload; time and memory ratios to the packed update against tokens."""
    return [
        _update_bars(report, "tokens", "tokens forwarded", lambda v: v.num_forwarded),
        _update_bars(report, "seconds", "seconds per update", lambda v: median(v.seconds)),
        _update_bars(report, "memory", "peak memory of tensors, MiB", lambda v: v.peak_bytes / 2**20),
        _ratios(report, "time", lambda v: v.time_ratio),
        _ratios(report, "memory", lambda v: v.memory_ratio),
    ]


def _by_name(report: UpdateReport) -> dict[str, list[tuple[UpdateWorkload, UpdateStats]]]:
    found: dict[str, list[tuple[UpdateWorkload, UpdateStats]]] = {}
    for workload in report.workloads:
        for variant in workload.variants:
            found.setdefault(_label(variant), []).append((workload, variant))
    return found


def _update_bars(report: UpdateReport, name: str, title: str, value: Callable[[UpdateStats], float]) -> Chart:
    series = [
        ChartSeries(label, tuple(_sharing(w) for w, _ in own), tuple(value(v) for _, v in own))
        for label, own in _by_name(report).items()
    ]
    return Chart(
        id=f"update-{name}",
        title=f"Updates: {title}",
        note=report.note,
        kind="bar",
        x=Axis("trajectory tokens per distinct token (trajectories)"),
        y=Axis(title),
        series=tuple(series),
    )


def _ratios(report: UpdateReport, what: str, value: Callable[[UpdateStats], float]) -> Chart:
    series = []
    for label, own in _by_name(report).items():
        ordered = sorted(own, key=lambda pair: pair[1].token_ratio)
        positions, texts = tuple(v.token_ratio for _, v in ordered), tuple(_sharing(w) for w, _ in ordered)
        series.append(ChartSeries(label, positions, tuple(value(v) for _, v in ordered), text=texts))
    return Chart(
        id=f"update-{what}-ratio",
        title=f"Updates: {what} against tokens",
        note=report.note,
        kind="scatter",
        x=Axis("tokens forwarded over the packed update's"),
        y=Axis(f"{what} over the packed update's"),
        series=tuple(series),
    )


def _sharing(workload: UpdateWorkload) -> str:
    return f"{workload.sharing:.2f} ({workload.num_trajectories})"

"""What `treepo bench rollout` keeps, as far as it is drawn."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from treepo.report.charts.base import Axis, Figure, Heatmap, Seconds, Series, Source
from treepo.utils.text import sanitize

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
    """One way of sampling; the fields are those of treepo.bench.timing.Figures."""

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
        return sanitize(self.name)

    @property
    def tree(self) -> tuple[int, int, str] | None:
        """(depth, segment length, how it forks) of a tree, None for the others."""
        match = TREE.fullmatch(self.name)
        return (int(match[1]), int(match[2]), sanitize(match[3])) if match else None


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


MOST_BARS = 64
"""That one can tell apart in one figure; of more there are none, and the other figures tell."""


@dataclass(frozen=True)
class Measure:
    """What is drawn of a contender. amount: what `value` counts per second, if anything, for its range over rounds.
    middle: see `Heatmap`."""

    id: str
    title: str
    value: Callable[[Contender], float | None]
    amount: Callable[[Contender], int] | None = None
    middle: float | None = None

    def series(self, name: str, x: Sequence[str | int], contenders: Sequence[Contender]) -> Series:
        """One point per contender, with the range over its rounds, and its name beside it."""
        low = high = None
        if self.amount is not None:
            low = tuple(self.amount(c) / max(c.seconds) for c in contenders)
            high = tuple(self.amount(c) / min(c.seconds) for c in contenders)
        values, labels = tuple(map(self.value, contenders)), tuple(c.label for c in contenders)
        return Series(name, tuple(x), values, low, high, labels)


SPEED = Measure("speed", "trajectories per second", lambda c: c.trajectories_per_s, lambda c: c.counts.num_trajectories)
TOKENS = Measure("tokens", "tokens decoded per second", lambda c: c.decoded_per_s, lambda c: c.counts.num_decoded)
SHARING = Measure("sharing", "trajectory tokens per decoded token", lambda c: c.ideal)
RATIO = Measure("ratio", "speed over sequential sampling", lambda c: c.over_sequential, middle=1.0)


def rollout_figures(file: RolloutFile) -> list[Figure]:
    """Bars side by side, or heatmaps of the grid; where it has several widths or depths, what comes of them.

    Depths are a heatmap where there are several segment lengths of each, else a curve for each length of answers.
    """
    lengths = dict.fromkeys(workload.response_len for workload in file.workloads)
    of_length = {length: [w for w in file.workloads if w.response_len == length] for length in lengths}
    grids = _grids(file)
    num_bars = len(file.workloads) * len({c.label for workload in file.workloads for c in workload.contenders})
    over_depths = (
        [] if grids else [f for length, own in of_length.items() for f in _over_depths(file.note, length, own)]
    )
    return [
        *(_bars(file) if not grids and num_bars <= MOST_BARS else []),
        *(figure for length, own in of_length.items() for figure in _over_widths(file.note, length, own)),
        *over_depths,
        *grids,
    ]


def _bars(file: RolloutFile) -> list[Figure]:
    figures = []
    for measure in (SPEED, TOKENS, SHARING, RATIO):
        series = [measure.series(w.title, [c.label for c in w.contenders], w.contenders) for w in file.workloads]
        axes = Axis("way of sampling"), Axis(measure.title)
        figures.append(
            Figure(f"rollout-{measure.id}", f"Rollouts: {measure.title}", file.note, "bar", *axes, tuple(series))
        )
    return figures


Points = Mapping[str, Sequence[tuple[int, Contender]]]
"""By the name of a series: (position, contender) in order."""


def _over_widths(note: str, length: int, workloads: Sequence[Workload]) -> list[Figure]:
    """How the speed scales with the trajectories per prompt."""
    if len({w.width for w in workloads}) < 2:
        return []
    points: dict[str, list[tuple[int, Contender]]] = {}
    for workload in sorted(workloads, key=lambda w: w.width):
        for contender in workload.contenders:
            points.setdefault(contender.label, []).append((workload.width, contender))
    return _lines(note, f"widths-{length}", f"by width, {length} tokens each", "trajectories per prompt", points)


def _over_depths(note: str, length: int, workloads: Sequence[Workload]) -> list[Figure]:
    """How the speed depends on the depth of a trajectory while its length, depth x segment length, is held."""
    points: dict[str, list[tuple[int, Contender]]] = {}
    for workload in workloads:
        for contender in workload.contenders:
            if contender.tree is not None:
                depth, _, forks = contender.tree
                points.setdefault(f"width {workload.width}, {forks}", []).append((depth, contender))
    if all(len({depth for depth, _ in own}) < 2 for own in points.values()):
        return []
    points = {name: sorted(own, key=lambda point: point[0]) for name, own in points.items()}
    return _lines(note, f"depths-{length}", f"by depth, {length} tokens each", "depth in segments", points)


def _lines(note: str, name: str, about: str, x_title: str, points: Points) -> list[Figure]:
    figures = []
    for measure in (SPEED, RATIO):
        series = [measure.series(label, *zip(*own, strict=True)) for label, own in points.items()]
        title, axes = f"Rollouts: {measure.title}, {about}", (Axis(x_title, log=True), Axis(measure.title))
        figures.append(Figure(f"rollout-{name}-{measure.id}", title, note, "line", *axes, tuple(series)))
    return figures


def _grids(file: RolloutFile) -> list[Figure]:
    """Depth x segment length, for each width and way to fork of which there is more than a diagonal."""
    grids: dict[str, dict[tuple[int, int], Contender]] = {}
    for workload in file.workloads:
        for contender in workload.contenders:
            if contender.tree is not None:
                depth, segment_len, forks = contender.tree
                grids.setdefault(f"width {workload.width}, {forks}", {})[depth, segment_len] = contender
    figures = []
    for name, cells in grids.items():
        depths, segment_lens = (tuple(sorted(set(sizes))) for sizes in zip(*cells, strict=True))
        if min(len(depths), len(segment_lens)) > 1 and len(cells) > max(len(depths), len(segment_lens)):
            sizes = depths, segment_lens
            figures += [_heatmap(file.note, name, measure, sizes, cells) for measure in (SPEED, RATIO, SHARING)]
    return figures


def _heatmap(
    note: str,
    name: str,
    measure: Measure,
    sizes: tuple[Sequence[int], Sequence[int]],
    cells: Mapping[tuple[int, int], Contender],
) -> Figure:
    depths, segment_lens = map(tuple, sizes)
    axes = Axis("tokens per segment", values=segment_lens), Axis("depth in segments", values=depths)
    by_cell = {cell: measure.value(contender) for cell, contender in cells.items()}
    rows = tuple(tuple(by_cell.get((depth, size)) for size in segment_lens) for depth in depths)
    slug = re.sub(r"\W+", "-", f"rollout-grid-{name}-{measure.id}")
    title = f"Rollouts: {measure.title}, {name}"
    return Figure(slug, title, note, "heatmap", *axes, heatmap=Heatmap(measure.title, rows, measure.middle))

"""Figures of `treepo bench update`: what each way of making an update takes, and what that has to do with sharing."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from pydantic import PositiveInt

from treepo.report.charts.base import Axis, Figure, Seconds, Series, Source
from treepo.utils.text import sanitize


@dataclass(frozen=True)
class Contender:
    """One way of making the update; the fields are those of treepo.bench.update_report.Figures."""

    name: str
    num_forwarded: int
    seconds: Seconds
    peak_bytes: int
    token_ratio: float
    time_ratio: float
    memory_ratio: float


@dataclass(frozen=True)
class Workload:
    """Contenders that made the same update."""

    num_trees: int
    num_trajectories: int
    num_distinct: PositiveInt
    num_total: int
    contenders: tuple[Contender, ...]

    @property
    def title(self) -> str:
        """How much the trajectories share, and how many there are."""
        return f"{self.num_total / self.num_distinct:.2f} ({self.num_trajectories})"


@dataclass(frozen=True)
class UpdateFile(Source):
    """What `treepo bench update` keeps."""

    workloads: tuple[Workload, ...] = ()


def update_figures(file: UpdateFile) -> list[Figure]:
    """Bars of tokens, seconds and memory by workload; time and memory against tokens, each over the packed update's."""
    return [
        _bars(file, "tokens", "tokens forwarded", lambda c: c.num_forwarded),
        _bars(file, "seconds", "seconds per update", lambda c: median(c.seconds)),
        _bars(file, "memory", "peak memory of tensors, MiB", lambda c: c.peak_bytes / 2**20),
        _ratios(file, "time", lambda c: c.time_ratio),
        _ratios(file, "memory", lambda c: c.memory_ratio),
    ]


def _by_name(file: UpdateFile) -> dict[str, list[tuple[Workload, Contender]]]:
    found: dict[str, list[tuple[Workload, Contender]]] = {}
    for workload in file.workloads:
        for contender in workload.contenders:
            found.setdefault(sanitize(contender.name), []).append((workload, contender))
    return found


def _bars(file: UpdateFile, name: str, title: str, value: Callable[[Contender], float]) -> Figure:
    series = [
        Series(label, tuple(w.title for w, _ in own), tuple(value(c) for _, c in own))
        for label, own in _by_name(file).items()
    ]
    axes = Axis("trajectory tokens per distinct token (trajectories)"), Axis(title)
    return Figure(f"update-{name}", f"Updates: {title}", file.note, "bar", *axes, tuple(series))


def _ratios(file: UpdateFile, what: str, value: Callable[[Contender], float]) -> Figure:
    series = []
    for label, own in _by_name(file).items():
        ordered = sorted(own, key=lambda pair: pair[1].token_ratio)
        positions, texts = tuple(c.token_ratio for _, c in ordered), tuple(w.title for w, _ in ordered)
        series.append(Series(label, positions, tuple(value(c) for _, c in ordered), text=texts))
    axes = Axis("tokens forwarded over the packed update's"), Axis(f"{what} over the packed update's")
    return Figure(f"update-{what}-ratio", f"Updates: {what} against tokens", file.note, "scatter", *axes, tuple(series))

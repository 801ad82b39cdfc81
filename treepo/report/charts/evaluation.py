"""Figures of `treepo eval`: accuracy by set, pass@k, accuracy against its cost, gains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import PositiveInt

from treepo.report.charts.base import Axis, Figure, Series
from treepo.utils.text import sanitize

ALL_SETS = "all sets"


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetResult:
    """Of one set, or of all; the fields are those of treepo.evaluate.results.SetResult."""

    dataset: str
    num_problems: PositiveInt
    num_answers: int
    avg: Estimate
    maj: Estimate
    pass_at: dict[int, Estimate]


@dataclass(frozen=True)
class Cost:
    """What decoding took."""

    tokens_decoded: int
    wall_s: float


@dataclass(frozen=True)
class Gain:
    """Against the first result."""

    avg: Estimate
    maj: Estimate


@dataclass(frozen=True)
class Result:
    """One model under one sampling setting; the fields are those of treepo.evaluate.results.Result."""

    model: str
    setting: str
    k: int
    datasets: tuple[SetResult, ...]
    overall: SetResult
    cost: Cost
    gain: Gain | None = None


def evaluation_figures(results: Sequence[Result]) -> list[Figure]:
    """All figures of the results. Accuracies are fractions; a cost is per problem, so that results are comparable."""
    labels = _labels(results)
    named = dict(zip(labels, results, strict=True))
    note = f"{results[0].overall.num_problems:,} problems; thin lines are intervals" if results else ""
    figures = [
        _by_set(named, note, "avg@k", lambda part: part.avg),
        _by_set(named, note, "maj@k", lambda part: part.maj),
        *_over_k(named, note),
        _against(named, note, "tokens", "tokens decoded per problem", lambda result: result.cost.tokens_decoded),
    ]
    if any(result.cost.wall_s > 0 for result in results):
        figures.append(_against(named, note, "time", "seconds per problem", lambda result: result.cost.wall_s))
    return [*figures, *_gains(named, note)]


def _labels(results: Sequence[Result]) -> list[str]:
    """The setting of each, with its model where there are several, and its k where they differ: more answers make
    maj@k and pass@k better."""
    names = [[result.setting] for result in results]
    if len({result.model for result in results}) > 1:
        names = [[result.model, *name] for result, name in zip(results, names, strict=True)]
    if len({result.k for result in results}) > 1:
        names = [[*name, f"k = {result.k}"] for result, name in zip(results, names, strict=True)]
    return [sanitize(", ".join(name)) for name in names]


def _series(name: str, x: Sequence[str | float], estimates: Sequence[Estimate], text: Sequence[str] = ()) -> Series:
    ends = tuple(e.low for e in estimates), tuple(e.high for e in estimates)
    return Series(name, tuple(x), tuple(e.value for e in estimates), *ends, tuple(text) or None)


def _by_set(named: dict[str, Result], note: str, title: str, figure: Callable[[SetResult], Estimate]) -> Figure:
    has_several = any(len(result.datasets) > 1 for result in named.values())
    series = []
    for label, result in named.items():
        names = [sanitize(part.dataset) for part in result.datasets]
        parts = [*result.datasets, result.overall] if has_several else result.datasets
        series.append(_series(label, [*names, ALL_SETS][: len(parts)], [figure(part) for part in parts]))
    axes = Axis("set"), Axis(title, is_share=True)
    return Figure(f"eval-{title.replace('@', '-')}", f"Accuracy: {title}", note, "bar", *axes, tuple(series))


def _over_k(named: dict[str, Result], note: str) -> list[Figure]:
    """pass@k; maj@k where results have different k, of which each has one."""
    passed, voted = [], []
    for label, result in named.items():
        estimates = sorted(result.overall.pass_at.items())
        passed.append(_series(label, [k for k, _ in estimates], [estimate for _, estimate in estimates]))
        voted.append(_series(label, [result.k], [result.overall.maj]))
    axis = Axis("answers per problem, k", log=True)
    figures = [
        Figure(
            "eval-pass", "Accuracy: pass@k, all sets", note, "line", axis, Axis("pass@k", is_share=True), tuple(passed)
        )
    ]
    if len({result.k for result in named.values()}) > 1:
        title = "Accuracy: maj@k over k, all sets"
        figures.append(
            Figure("eval-maj-over-k", title, note, "scatter", axis, Axis("maj@k", is_share=True), tuple(voted))
        )
    return figures


def _against(named: dict[str, Result], note: str, name: str, title: str, cost: Callable[[Result], float]) -> Figure:
    """Two points for each result, its measures, so that its name is in the legend."""
    series = []
    for label, result in named.items():
        costs, measures = 2 * [cost(result) / result.overall.num_problems], (f"avg@{result.k}", f"maj@{result.k}")
        series.append(_series(label, costs, [result.overall.avg, result.overall.maj], measures))
    axes = Axis(title), Axis("accuracy over all sets", is_share=True)
    return Figure(f"eval-cost-{name}", f"Accuracy against {title}", note, "scatter", *axes, tuple(series))


def _gains(named: dict[str, Result], note: str) -> list[Figure]:
    """Of each result against the first, which has no bars and keeps its place, so that colours are as elsewhere."""
    if all(result.gain is None for result in named.values()):
        return []
    measures = ("avg@k", "maj@k")
    series = [
        _series(label, measures, [result.gain.avg, result.gain.maj])
        if result.gain is not None
        else Series(label, measures, (None, None))
        for label, result in named.items()
    ]
    title, axes = (
        f"Gain over {next(iter(named))}, problem by problem",
        (Axis("measure"), Axis("difference of accuracies", is_share=True)),
    )
    return [Figure("eval-gain", title, note, "bar", *axes, tuple(series))]

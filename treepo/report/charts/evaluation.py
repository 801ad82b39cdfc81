"""Charts of `treepo eval`: accuracy by dataset, pass@k, accuracy against its cost, gains."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from treepo.evaluate.results import DatasetResult, Estimate, Result
from treepo.report.charts.base import Axis, Chart, ChartSeries
from treepo.utils.text import pluralize, sanitize

ALL_DATASETS = "all datasets"


def evaluation_charts(results: Sequence[Result]) -> list[Chart]:
    """All charts of the results. Accuracies are shares of 1; costs are per problem, to be comparable."""
    named = dict(zip(_labels(results), results, strict=True))
    datasets, k, costs = Axis("dataset"), Axis("answers per problem, k", log=True), "accuracy over all datasets"
    # Id, title, kind, axes, series.
    rows: list[tuple[str, str, Any, Axis, str, Sequence[ChartSeries]]] = [
        ("avg-k", "Accuracy: avg@k", "bar", datasets, "avg@k", _by_dataset(named, lambda part: part.avg)),
        ("maj-k", "Accuracy: maj@k", "bar", datasets, "maj@k", _by_dataset(named, lambda part: part.maj)),
        ("pass", "Accuracy: pass@k, all datasets", "line", k, "pass@k", _pass_at(named)),
    ]
    if all(result.overall.majority for result in results):
        title = "Accuracy: majority of k answers, each voting once"
        rows.insert(2, ("majority-k", title, "bar", datasets, "majority", _by_dataset(named, _majority)))
    if len({result.k for result in results}) > 1:
        voted = [_series(label, [result.k], [result.overall.maj]) for label, result in named.items()]
        rows.append(("maj-over-k", "Accuracy: maj@k over k, all datasets", "scatter", k, "maj@k", voted))
    for name, title, cost in COSTS:
        if name != "time" or any(result.cost.wall_s > 0 for result in results):
            against = f"Accuracy against {title}"
            rows.append((f"cost-{name}", against, "scatter", Axis(title), costs, _against(named, cost)))
    if any(result.gain is not None for result in results):
        title = f"Gain over {next(iter(named))}, problem by problem"
        rows.append(("gain", title, "bar", Axis("measure"), "difference of accuracies", _gains(named)))
    note = f"{pluralize(results[0].overall.num_problems, 'problem')}; thin lines are intervals" if results else ""
    return [
        Chart(id=f"eval-{name}", title=title, note=note, kind=kind, x=x, y=Axis(y, is_share=True), series=tuple(series))
        for name, title, kind, x, y, series in rows
    ]


COSTS: tuple[tuple[str, str, Callable[[Result], float]], ...] = (
    ("tokens", "tokens decoded per problem", lambda result: result.cost.tokens_decoded),
    ("time", "seconds per problem", lambda result: result.cost.wall_s),
)
"""Id, title and value of each cost; results without times have no chart of them."""


def _labels(results: Sequence[Result]) -> list[str]:
    """The setting of each result, with its model if there are several, and its k if they differ."""
    names = [[result.setting] for result in results]
    if len({result.model for result in results}) > 1:
        names = [[result.model, *name] for result, name in zip(results, names, strict=True)]
    if len({result.k for result in results}) > 1:
        names = [[*name, f"k = {result.k}"] for result, name in zip(results, names, strict=True)]
    return [sanitize(", ".join(name)) for name in names]


def _series(
    name: str, x: Sequence[str | float], estimates: Sequence[Estimate], text: Sequence[str] = ()
) -> ChartSeries:
    ends = tuple(e.low for e in estimates), tuple(e.high for e in estimates)
    return ChartSeries(name, tuple(x), tuple(e.value for e in estimates), *ends, tuple(text) or None)


def _by_dataset(named: Mapping[str, Result], estimate: Callable[[DatasetResult], Estimate]) -> list[ChartSeries]:
    has_several = any(len(result.datasets) > 1 for result in named.values())
    series = []
    for label, result in named.items():
        names = [sanitize(part.dataset) for part in result.datasets]
        parts = [*result.datasets, result.overall] if has_several else result.datasets
        series.append(_series(label, [*names, ALL_DATASETS][: len(parts)], [estimate(part) for part in parts]))
    return series


def _majority(part: DatasetResult) -> Estimate:
    assert part.majority is not None, "results of earlier versions have no such chart"
    return part.majority


def _pass_at(named: Mapping[str, Result]) -> list[ChartSeries]:
    estimates = {label: dict(sorted(result.overall.pass_at.items())) for label, result in named.items()}
    return [_series(label, list(own), list(own.values())) for label, own in estimates.items()]


def _against(named: Mapping[str, Result], cost: Callable[[Result], float]) -> list[ChartSeries]:
    """One series of two points, avg@k and maj@k, per result, so that its name is in the legend."""
    series = []
    for label, result in named.items():
        costs, measures = 2 * [cost(result) / result.overall.num_problems], (f"avg@{result.k}", f"maj@{result.k}")
        series.append(_series(label, costs, [result.overall.avg, result.overall.maj], measures))
    return series


def _gains(named: Mapping[str, Result]) -> list[ChartSeries]:
    """Gains over the first result, which keeps its place without bars, so that colours agree with other charts."""
    measures = ("avg@k", "maj@k")
    return [
        _series(label, measures, [result.gain.avg, result.gain.maj])
        if result.gain is not None
        else ChartSeries(label, measures, (None, None))
        for label, result in named.items()
    ]

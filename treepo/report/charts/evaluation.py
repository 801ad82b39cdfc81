"""Charts of `treepo eval`: accuracy by dataset, pass@k, accuracy against its cost, gains."""

from collections.abc import Callable, Sequence

from treepo.evaluate.results import DatasetResult, Estimate, Result
from treepo.report.charts.base import Axis, Chart, ChartSeries
from treepo.utils.text import sanitize

ALL_DATASETS = "all datasets"


def evaluation_charts(results: Sequence[Result]) -> list[Chart]:
    """All charts of the results. Accuracies are shares of 1; costs are per problem, to be comparable."""
    labels = _labels(results)
    named = dict(zip(labels, results, strict=True))
    note = f"{results[0].overall.num_problems:,} problems; thin lines are intervals" if results else ""
    charts = [
        _by_dataset(named, note, "avg@k", lambda part: part.avg),
        _by_dataset(named, note, "maj@k", lambda part: part.maj),
        *_over_k(named, note),
        _against(named, note, "tokens", "tokens decoded per problem", lambda result: result.cost.tokens_decoded),
    ]
    if any(result.cost.wall_s > 0 for result in results):
        charts.append(_against(named, note, "time", "seconds per problem", lambda result: result.cost.wall_s))
    return [*charts, *_gains(named, note)]


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


def _by_dataset(
    named: dict[str, Result], note: str, title: str, estimate: Callable[[DatasetResult], Estimate]
) -> Chart:
    has_several = any(len(result.datasets) > 1 for result in named.values())
    series = []
    for label, result in named.items():
        names = [sanitize(part.dataset) for part in result.datasets]
        parts = [*result.datasets, result.overall] if has_several else result.datasets
        series.append(_series(label, [*names, ALL_DATASETS][: len(parts)], [estimate(part) for part in parts]))
    return Chart(
        id=f"eval-{title.replace('@', '-')}",
        title=f"Accuracy: {title}",
        note=note,
        kind="bar",
        x=Axis("dataset"),
        y=Axis(title, is_share=True),
        series=tuple(series),
    )


def _over_k(named: dict[str, Result], note: str) -> list[Chart]:
    """pass@k over k; also maj@k if results have different k."""
    passed, voted = [], []
    for label, result in named.items():
        estimates = sorted(result.overall.pass_at.items())
        passed.append(_series(label, [k for k, _ in estimates], [estimate for _, estimate in estimates]))
        voted.append(_series(label, [result.k], [result.overall.maj]))
    axis = Axis("answers per problem, k", log=True)
    pass_chart = Chart(
        id="eval-pass",
        title="Accuracy: pass@k, all datasets",
        note=note,
        kind="line",
        x=axis,
        y=Axis("pass@k", is_share=True),
        series=tuple(passed),
    )
    if len({result.k for result in named.values()}) <= 1:
        return [pass_chart]
    maj_chart = Chart(
        id="eval-maj-over-k",
        title="Accuracy: maj@k over k, all datasets",
        note=note,
        kind="scatter",
        x=axis,
        y=Axis("maj@k", is_share=True),
        series=tuple(voted),
    )
    return [pass_chart, maj_chart]


def _against(named: dict[str, Result], note: str, name: str, title: str, cost: Callable[[Result], float]) -> Chart:
    """One series of two points, avg@k and maj@k, per result, so that its name is in the legend."""
    series = []
    for label, result in named.items():
        costs, measures = 2 * [cost(result) / result.overall.num_problems], (f"avg@{result.k}", f"maj@{result.k}")
        series.append(_series(label, costs, [result.overall.avg, result.overall.maj], measures))
    return Chart(
        id=f"eval-cost-{name}",
        title=f"Accuracy against {title}",
        note=note,
        kind="scatter",
        x=Axis(title),
        y=Axis("accuracy over all datasets", is_share=True),
        series=tuple(series),
    )


def _gains(named: dict[str, Result], note: str) -> list[Chart]:
    """Gains over the first result, which keeps its place without bars, so that colours agree with other charts."""
    if all(result.gain is None for result in named.values()):
        return []
    measures = ("avg@k", "maj@k")
    series = [
        _series(label, measures, [result.gain.avg, result.gain.maj])
        if result.gain is not None
        else ChartSeries(label, measures, (None, None))
        for label, result in named.items()
    ]
    chart = Chart(
        id="eval-gain",
        title=f"Gain over {next(iter(named))}, problem by problem",
        note=note,
        kind="bar",
        x=Axis("measure"),
        y=Axis("difference of accuracies", is_share=True),
        series=tuple(series),
    )
    return [chart]

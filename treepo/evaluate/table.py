"""Results as tables of text, for the terminal and for documents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from treepo.evaluate.results import DatasetResult, Estimate, Result, first_setting, relative_cost
from treepo.utils.text import sanitize

NOTHING = "-"
"""Stands for a missing value."""

ALL_DATASETS = "all datasets"
"""Heads the column of all datasets together, the last one where there are several."""

MAJORITY = "majority of k"
MAX_SUMMARY_DATASETS = 2
"""Datasets that have a column each in the summary."""

LABELS = ("model", "setting", "k")
COST_HEADER = ("problems", "avg@k", "maj@k", "tokens decoded", "wall s", "accelerator s")
GAIN_HEADER = ("problems", "avg@k", "maj@k")
SPEED_HEADER = ("tokens per answer", "prefix tokens", "answers per s")


@dataclass(frozen=True)
class TextTable:
    """A table of plain text, every character printable."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text_tables(results: Sequence[Result]) -> list[TextTable]:
    """Accuracy and votes by dataset, pass@k, gains, cost and accuracy, lengths and speed, outcomes; a row per result.

    Accuracies are in percent, followed by their interval; beside the cost they are those over all datasets. Costs are
    followed by their ratio to the cost per answer of the model's first setting. Gains over the first row, in points,
    are shown if there are several rows; a column of all datasets, if there are several datasets.
    """
    datasets = list(dict.fromkeys(part.dataset for result in results for part in result.datasets))
    columns = [*datasets, ALL_DATASETS] if len(datasets) > 1 else datasets
    ks = sorted({k for result in results for k in result.overall.pass_at})
    passes = [f"pass@{k}" for k in ks]
    outcomes = sorted({outcome for result in results for outcome in result.overall.outcomes})
    tables = [
        _table("avg@k", columns, results, lambda r: _by_dataset(r, datasets, lambda part: part.avg)),
        _table("maj@k", columns, results, lambda r: _by_dataset(r, datasets, lambda part: part.maj)),
        _table(MAJORITY, columns, results, lambda r: _by_dataset(r, datasets, lambda part: part.majority)),
        _table("pass@k, all datasets", passes, results, lambda r: [_of(r.overall.pass_at, k) for k in ks]),
        _table("Cost and accuracy", COST_HEADER, results, lambda r: _cost_cells(r, first_setting(r, results))),
        _table("Lengths and speed", SPEED_HEADER, results, lambda r: _speed_cells(r, first_setting(r, results))),
        _table("Outcomes, percent of answers", outcomes, results, lambda r: _outcome_cells(r, outcomes)),
    ]
    gains = _table("Gain over the first row, problem by problem", GAIN_HEADER, results, _gain_cells)
    return [*tables[:4], gains, *tables[4:]] if any(result.gain for result in results) else tables


def summary_table(results: Sequence[Result], about: str) -> TextTable:
    """Accuracy with its interval and the cost, a row per result; the gain over the first row where there are several.

    about: stands in the title. Of more than two datasets only all together have a column, so that the table fits into
    80 columns.
    """
    datasets = list(dict.fromkeys(part.dataset for result in results for part in result.datasets))
    columns = [*datasets, ALL_DATASETS] if len(datasets) == MAX_SUMMARY_DATASETS else datasets
    columns = columns if len(datasets) <= MAX_SUMMARY_DATASETS else [ALL_DATASETS]
    has_gain = any(result.gain for result in results) and len(columns) == 1

    def cells(result: Result) -> list[str]:
        found = _by_dataset(result, datasets, lambda part: part.avg)[-len(columns) :]
        gain = [NOTHING if result.gain is None else _signed(result.gain.avg)] if has_gain else []
        first = first_setting(result, results)
        return [*found, *gain, _cost(result, first, "tokens_decoded", ",d"), _cost(result, first, "wall_s", ",.1f")]

    header = [*columns, *(["gain"] if has_gain else []), "tokens decoded", "wall s"]
    is_rewarded = bool(results) and all(result.overall.is_rewarded for result in results)
    what = "Mean reward of the environment, times 100" if is_rewarded else "Accuracy in percent"
    return _table(f"{what}: {about}", header, results, cells)


def rich_table(table: TextTable) -> Table:
    """The table for the terminal; five values with their intervals fit into 80 columns.

    Model and setting share one column, the only one to be wrapped. Nothing is read as markup.
    """
    shown = Table(title=Text(table.title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    shown.add_column(Text("model\nsetting"), overflow="fold")
    for name in table.header[2:]:
        shown.add_column(_stacked(name), justify="right", no_wrap=True)
    for model, setting, *values in table.rows:
        shown.add_row(Text(f"{model}\n{setting}"), *map(_stacked, values))
    return shown


def _table(
    title: str, header: Sequence[str], results: Sequence[Result], cells: Callable[[Result], list[str]]
) -> TextTable:
    rows = [(result.model, result.setting, str(result.k), *cells(result)) for result in results]
    return TextTable(title, _sanitized([*LABELS, *header]), tuple(map(_sanitized, rows)))


def _by_dataset(
    result: Result, datasets: Sequence[str], estimate: Callable[[DatasetResult], Estimate | None]
) -> list[str]:
    estimates = {part.dataset: estimate(part) for part in result.datasets}
    shown = [estimates.get(dataset) for dataset in datasets]
    shown += [estimate(result.overall)] if len(datasets) > 1 else []
    return [NOTHING if one is None else _percent(one) for one in shown]


def _cost_cells(result: Result, first: Result) -> list[str]:
    return [
        str(result.overall.num_problems),
        f"{100 * result.overall.avg.value:.1f}",
        f"{100 * result.overall.maj.value:.1f}",
        _cost(result, first, "tokens_decoded", ",d"),
        _cost(result, first, "wall_s", ",.1f"),
        _cost(result, first, "accelerator_s", ",.1f"),
    ]


def _gain_cells(result: Result) -> list[str]:
    gain = result.gain
    return [NOTHING] * 3 if gain is None else [str(gain.num_problems), _signed(gain.avg), _signed(gain.maj)]


def _speed_cells(result: Result, first: Result) -> list[str]:
    rate = result.trajectories_per_s
    return [
        f"{result.overall.tokens_per_answer:,.1f}",
        _cost(result, first, "tokens_prefilled", ",d"),
        NOTHING if rate is None else f"{rate:,.2f}",
    ]


def _cost(result: Result, first: Result, name: str, form: str) -> str:
    share = relative_cost(result, first)[name]
    return f"{getattr(result.cost, name):{form}} ({NOTHING if share is None else f'{share:.2f}x'})"


def _outcome_cells(result: Result, outcomes: Sequence[str]) -> list[str]:
    return [f"{100 * result.overall.outcomes.get(outcome, 0.0):.1f}" for outcome in outcomes]


def _of(estimates: dict[Any, Estimate], key: object) -> str:
    return _percent(estimates[key]) if key in estimates else NOTHING


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def _signed(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.1f}..{100 * estimate.high:+.1f})"


def _stacked(cell: str) -> Text:
    """A value above its interval: rich would break numbers to save width."""
    return Text(cell.replace(" ", "\n"))


def _sanitized(cells: Sequence[str]) -> tuple[str, ...]:
    """Names come from outside: no character in them may steer the terminal."""
    return tuple(map(sanitize, cells))

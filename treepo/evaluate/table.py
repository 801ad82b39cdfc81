"""Results as tables of text, for the terminal and for documents, and as JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from treepo.evaluate.estimates import Estimate
from treepo.evaluate.results import Result, SetResult
from treepo.utils.text import sanitize

NOTHING = "-"
"""Stands where there is no figure."""

ALL_SETS = "all sets"
"""Heads the column of all sets together, the last one where there are several."""

LABELS = ("model", "setting", "k")
COST_HEADER = ("problems", "avg@k", "maj@k", "tokens decoded", "wall s", "accelerator s")
GAIN_HEADER = ("problems", "avg@k", "maj@k")
SPEED_HEADER = ("tokens per answer", "prefix tokens", "answers per s")

RELATIVE = ("tokens_decoded", "tokens_prefilled", "wall_s", "accelerator_s")
"""Costs that are compared with those of a model's first setting."""


@dataclass(frozen=True)
class TextTable:
    """A table of plain text, every character printable."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text_tables(results: Sequence[Result]) -> list[TextTable]:
    """Accuracy by set, pass@k, cost beside accuracy, lengths and speed, outcomes; one row per model and setting.

    Accuracies are in percent, followed by their interval; beside the cost they are those over all sets, after the
    number of problems. Costs are followed by how many times those of the model's first setting they are, per answer.
    Where there are several rows, gains over the first one follow, in points. Where there is one set, no column of all
    sets repeats it.
    """
    sources = list(dict.fromkeys(part.source for result in results for part in result.sets))
    columns = [*sources, ALL_SETS] if len(sources) > 1 else sources
    ks = sorted({k for result in results for k in result.overall.pass_at})
    outcomes = sorted({outcome for result in results for outcome in result.overall.outcomes})
    tables = [
        _table("avg@k", columns, results, lambda r: _by_set(r, sources, lambda part: part.avg)),
        _table("maj@k", columns, results, lambda r: _by_set(r, sources, lambda part: part.maj)),
        _table(
            "pass@k, all sets", [f"pass@{k}" for k in ks], results, lambda r: [_of(r.overall.pass_at, k) for k in ks]
        ),
        _table("Cost and accuracy", COST_HEADER, results, lambda r: _cost_cells(r, first_setting(r, results))),
        _table("Lengths and speed", SPEED_HEADER, results, lambda r: _speed_cells(r, first_setting(r, results))),
        _table("Outcomes, percent of answers", outcomes, results, lambda r: _outcome_cells(r, outcomes)),
    ]
    gains = _table("Gain over the first row, problem by problem", GAIN_HEADER, results, _gain_cells)
    return [*tables[:3], gains, *tables[3:]] if any(result.gain for result in results) else tables


def rich_table(table: TextTable) -> Table:
    """The table for the terminal, where five figures with their intervals fit into 80 columns.

    Model and setting are one column, and the only one to be wrapped. Nothing is read as markup.
    """
    shown = Table(title=Text(table.title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    shown.add_column(Text("model\nsetting"), overflow="fold")
    for name in table.header[2:]:
        shown.add_column(_stacked(name), justify="right", no_wrap=True)
    for model, setting, *figures in table.rows:
        shown.add_row(Text(f"{model}\n{setting}"), *map(_stacked, figures))
    return shown


def to_json(results: Sequence[Result]) -> str:
    """All figures: fields as they are named in Result, with `trajectories_per_s` and `relative_cost`; null for none."""
    rows = [
        asdict(result)
        | {
            "trajectories_per_s": result.trajectories_per_s,
            "relative_cost": relative_cost(result, first_setting(result, results)),
        }
        for result in results
    ]
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"


def first_setting(result: Result, results: Sequence[Result]) -> Result:
    """The first result of the same model."""
    return next(other for other in results if other.model == result.model)


def relative_cost(result: Result, first: Result) -> dict[str, float | None]:
    """How many times those of `first` the costs are, per answer; None where that cost nothing."""
    shares = {}
    for name in RELATIVE:
        ours, theirs = (getattr(r.cost, name) / r.overall.num_answers for r in (result, first))
        shares[name] = ours / theirs if theirs > 0 else None
    return shares


def _table(
    title: str, header: Sequence[str], results: Sequence[Result], cells: Callable[[Result], list[str]]
) -> TextTable:
    rows = [(result.model, result.setting, str(result.k), *cells(result)) for result in results]
    return TextTable(title, _printable([*LABELS, *header]), tuple(map(_printable, rows)))


def _by_set(result: Result, sources: Sequence[str], figure: Callable[[SetResult], Estimate]) -> list[str]:
    figures = {part.source: figure(part) for part in result.sets}
    by_set = [_of(figures, source) for source in sources]
    return [*by_set, _percent(figure(result.overall))] if len(sources) > 1 else by_set


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


def _of(figures: dict[Any, Estimate], key: object) -> str:
    return _percent(figures[key]) if key in figures else NOTHING


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def _signed(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.1f}..{100 * estimate.high:+.1f})"


def _stacked(cell: str) -> Text:
    """A figure above its interval: rich would break numbers to save width."""
    return Text(cell.replace(" ", "\n"))


def _printable(cells: Sequence[str]) -> tuple[str, ...]:
    """Names come from outside: no character in them may steer the terminal."""
    return tuple(map(sanitize, cells))

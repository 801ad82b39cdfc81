"""The payload of a page: everything that it shows, as JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import treepo
from treepo.report.page.folder import RunFolder
from treepo.report.page.series import series_of
from treepo.report.page.token_texts import TokenTexts
from treepo.report.page.trees import Breakdown, TreeReader, choose_trees

VERSION = 1

TREE_CHARACTERS = 2_700_000
"""Characters of a page for the trees of all its runs."""


@dataclass(frozen=True)
class ShownRun:
    """One run of a page.

    decode: token ids to text, or None without a tokenizer. breakdown: see `AdvantageBreakdown`. note: a remark on its
    trees, or empty.
    """

    name: str
    folder: RunFolder
    decode: Callable[[Sequence[int]], str] | None
    breakdown: Breakdown
    note: str = ""


def page_payload(
    title: str, runs: Sequence[ShownRun], charts: Sequence[dict[str, Any]], written: datetime
) -> dict[str, Any]:
    """The payload of a page with runs and charts of evaluations and benchmarks; names and ids become distinct."""
    names = distinct([run.name for run in runs])
    ids = distinct([chart["id"] for chart in charts], "{}-{}")
    budget = TREE_CHARACTERS // max(len(runs), 1)
    return {
        "version": VERSION,
        "title": title,
        "treepo": treepo.__version__,
        "written": written.isoformat(timespec="seconds"),
        "runs": [run_payload(name, run, budget) for name, run in zip(names, runs, strict=True)],
        "charts": [{**chart, "id": own} for chart, own in zip(charts, ids, strict=True)],
    }


def run_payload(name: str, run: ShownRun, budget: int) -> dict[str, Any]:
    """The payload of one run; budget: characters for its trees."""
    folder = run.folder
    series = series_of(folder.metrics())
    files = folder.tree_files()
    texts = None if run.decode is None else TokenTexts(run.decode)
    chosen = choose_trees(files, budget, TreeReader(texts, run.breakdown))
    no_tokenizer = "" if run.decode else "no tokenizer: the text of a segment is not divided into tokens"
    tree_notes = [no_tokenizer, run.note] if files else []
    return {
        "name": name,
        "settings": folder.settings(),
        "environment": folder.environment(),
        "steps": series.steps,
        "metrics": series.metrics,
        "so_far": {"tokens": series.tokens, "seconds": series.seconds},
        "note": "; ".join(filter(None, [series.note, *chosen.notes, *tree_notes])),
        "trees": {
            "pieces": chosen.pieces.texts,
            "steps": [{"step": step, "trees": trees} for step, trees in chosen.steps.items()],
        },
    }


def distinct(names: Sequence[str], numbered: str = "{} ({})") -> list[str]:
    """The names, each repeated one with a number behind it in the format `numbered`."""
    taken: list[str] = []
    for name in names:
        number, own = 2, name
        while own in taken or (own != name and own in names):
            own, number = numbered.format(name, number), number + 1
        taken.append(own)
    return taken

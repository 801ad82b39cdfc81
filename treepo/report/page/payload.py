"""What a page shows, as one JSON value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import treepo
from treepo.report.page.choice import Explain, TreeReader, choose_trees
from treepo.report.page.folder import RunFolder
from treepo.report.page.series import series_of
from treepo.report.page.token_texts import TokenTexts

VERSION = 1

TREE_CHARACTERS = 2_700_000
"""Of a page, for the trees of all its runs."""


@dataclass(frozen=True)
class ShownRun:
    """One run of a page. decode: its tokens to text, or None where there is no tokenizer; explain: see `Explain`;
    note: what is to be said of its trees."""

    name: str
    folder: RunFolder
    decode: Callable[[Sequence[int]], str] | None
    explain: Explain
    note: str = ""


def page_payload(
    title: str, runs: Sequence[ShownRun], figures: Sequence[dict[str, Any]], written: datetime
) -> dict[str, Any]:
    """The payload of a page with these runs, each under a name of its own, and the figures of what else is shown,
    each under an id of its own."""
    names = distinct([run.name for run in runs])
    ids = distinct([figure["id"] for figure in figures], "{}-{}")
    budget = TREE_CHARACTERS // max(len(runs), 1)
    return {
        "version": VERSION,
        "title": title,
        "treepo": treepo.__version__,
        "written": written.isoformat(timespec="seconds"),
        "runs": [run_payload(name, run, budget) for name, run in zip(names, runs, strict=True)],
        "figures": [{**figure, "id": own} for figure, own in zip(figures, ids, strict=True)],
    }


def run_payload(name: str, run: ShownRun, budget: int) -> dict[str, Any]:
    """One run, its trees within so many characters of the page."""
    folder = run.folder
    series = series_of(folder.metrics())
    files = folder.tree_files()
    texts = None if run.decode is None else TokenTexts(run.decode)
    chosen = choose_trees(files, budget, TreeReader(texts, run.explain))
    undivided = "" if run.decode else "no tokenizer: the text of a segment is not divided into tokens"
    untold = [undivided, run.note] if files else []
    return {
        "name": name,
        "settings": folder.settings(),
        "environment": folder.environment(),
        "steps": series.steps,
        "metrics": series.metrics,
        "so_far": {"tokens": series.tokens, "seconds": series.seconds},
        "note": "; ".join(filter(None, [series.note, *chosen.notes, *untold])),
        "trees": {
            "pieces": chosen.pieces.texts,
            "steps": [{"step": step, "trees": trees} for step, trees in chosen.steps.items()],
        },
    }


def distinct(names: Sequence[str], numbered: str = "{} ({})") -> list[str]:
    """The names, with a number behind each that has been there before, as `numbered` has it."""
    taken: list[str] = []
    for name in names:
        number, own = 2, name
        while own in taken or (own != name and own in names):
            own, number = numbered.format(name, number), number + 1
        taken.append(own)
    return taken

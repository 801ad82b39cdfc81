"""How the advantages of a kept tree came about, if that can be told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

import treepo
from treepo.credit.base import Component, Estimator, SupportsComponents, sum_components
from treepo.report.page.folder import RunFolder
from treepo.report.page.token_texts import TokenTexts
from treepo.report.page.tree_choice import Explain, TreeReader, choose_trees, series_of, short
from treepo.report.trees import KeptTree

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Explanation:
    """estimator: None if it cannot be had; name: what the settings call it. metrics: of the run, by step; mean and std
    by which a step's advantages were whitened are among them."""

    estimator: Estimator | None
    name: str | None
    metrics: Mapping[int, Mapping[str, float]]

    def __call__(self, step: int, kept: KeptTree) -> dict[str, Any]:
        """Terms per leaf, or per node of an estimator with one advantage per node, and (sum - mean) / std where that is
        how advantages were made of their sums. Terms are None unless they give the advantages that were kept, as of
        other settings or another version."""
        terms, whitening = self._terms(kept), self._whitening(step)
        if terms is None or not _agree(kept, sum_components(terms), whitening):
            return {"estimator": self.name, "terms": None, "whitening": None}
        told = None if whitening is None else {"mean": short(whitening[0], 9), "std": short(whitening[1], 9)}
        return {"estimator": self.name, "terms": [[_told(term) for term in own] for own in terms], "whitening": told}

    def _terms(self, kept: KeptTree) -> list[list[Component]] | None:
        if kept.rewards is None or kept.advantages is None or not isinstance(self.estimator, SupportsComponents):
            return None
        try:
            return self.estimator.components(kept.tree, kept.rewards)
        except Exception:  # noqa: BLE001 - code of one's own may raise anything, and costs the page its terms alone
            # It cannot make terms of these rewards, so it is not what made the advantages.
            return None

    def _whitening(self, step: int) -> tuple[float, float] | None:
        if self.estimator is None or not self.estimator.whiten:
            return None
        figures = self.metrics.get(step, {})
        return figures.get("advantages/raw_mean", np.nan), figures.get("advantages/raw_std", np.nan)


def _agree(kept: KeptTree, sums: np.ndarray, whitening: tuple[float, float] | None) -> bool:
    assert kept.advantages is not None
    advantages = kept.advantages.values
    if sums.shape != advantages.shape:
        return False
    if whitening is not None:
        sums = (sums - whitening[0]) / whitening[1]
    # What no token has is 0 once it is whitened.
    has_tokens = kept.advantages.token_counts(kept.tree) > 0
    return bool(np.allclose(sums[has_tokens], advantages[has_tokens], rtol=TOLERANCE, atol=TOLERANCE))


def _told(term: Component) -> dict[str, Any]:
    return {name: short(value) if isinstance(value, float) else value for name, value in vars(term).items()}


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

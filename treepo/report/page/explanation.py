"""How the advantages of a kept tree came about, if that can be told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from treepo.credit import Estimator, token_counts
from treepo.credit.terms import Explained, Term, sums_of
from treepo.report.page.numbers import short
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
        if terms is None or not _agree(kept, sums_of(terms), whitening):
            return {"estimator": self.name, "terms": None, "whitening": None}
        told = None if whitening is None else {"mean": short(whitening[0], 9), "std": short(whitening[1], 9)}
        return {"estimator": self.name, "terms": [[_told(term) for term in own] for own in terms], "whitening": told}

    def _terms(self, kept: KeptTree) -> list[list[Term]] | None:
        if kept.rewards is None or kept.advantages is None or not isinstance(self.estimator, Explained):
            return None
        try:
            return self.estimator.terms(kept.tree, kept.rewards)
        except Exception:  # noqa: BLE001 - code of one's own may raise anything, and costs the page its terms alone
            # It cannot make terms of these rewards, so it is not what made the advantages.
            return None

    def _whitening(self, step: int) -> tuple[float, float] | None:
        if self.estimator is None or not self.estimator.whiten:
            return None
        figures = self.metrics.get(step, {})
        return figures.get("advantages/raw_mean", np.nan), figures.get("advantages/raw_std", np.nan)


def _agree(kept: KeptTree, sums: np.ndarray, whitening: tuple[float, float] | None) -> bool:
    advantages = kept.advantages
    assert advantages is not None
    if sums.shape != advantages.shape:
        return False
    if whitening is not None:
        sums = (sums - whitening[0]) / whitening[1]
    # What no token has is 0 once it is whitened.
    has_tokens = token_counts(kept.tree, advantages) > 0
    return bool(np.allclose(sums[has_tokens], advantages[has_tokens], rtol=TOLERANCE, atol=TOLERANCE))


def _told(term: Term) -> dict[str, Any]:
    return {name: short(value) if isinstance(value, float) else value for name, value in vars(term).items()}

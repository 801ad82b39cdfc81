"""How the advantages of stored trees came about: the components that they are sums of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from treepo.credit.base import Component, Estimator, SupportsComponents, sum_components
from treepo.report.page.series import short
from treepo.report.trees import KeptTree

TOLERANCE = 1e-9


@dataclass(frozen=True)
class AdvantageBreakdown:
    """Recomputes how the advantages of a run's trees came about.

    estimator: None if it is not available. name: its name in the settings. metrics: of the run by step; they hold the
    mean and the standard deviation by which a step's advantages were whitened.
    """

    estimator: Estimator | None
    name: str | None
    metrics: Mapping[int, Mapping[str, float]]

    def __call__(self, step: int, kept: KeptTree) -> dict[str, Any]:
        """The components of each advantage, and the mean and standard deviation of the whitening, if there was one.

        Components are per leaf, or per node if there is one advantage per node. They are None unless they add up to the
        advantages in the file, which may be those of other settings or of another version.
        """
        components, whitening = self._components(kept), self._whitening(step)
        if components is None or not _agree(kept, sum_components(components), whitening):
            return {"estimator": self.name, "components": None, "whitening": None}
        return {
            "estimator": self.name,
            "components": [[_component_json(component) for component in own] for own in components],
            "whitening": whitening and {"mean": short(whitening[0], 9), "std": short(whitening[1], 9)},
        }

    def _components(self, kept: KeptTree) -> list[list[Component]] | None:
        if kept.rewards is None or kept.advantages is None or not isinstance(self.estimator, SupportsComponents):
            return None
        try:
            return self.estimator.components(kept.tree, kept.rewards)
        except Exception:  # noqa: BLE001 - the run's own code may raise anything, and the page needs nothing of it
            # An estimator that fails on these rewards did not compute the advantages.
            return None

    def _whitening(self, step: int) -> tuple[float, float] | None:
        if self.estimator is None or not self.estimator.whiten:
            return None
        metrics = self.metrics.get(step, {})
        return metrics.get("advantages/raw_mean", np.nan), metrics.get("advantages/raw_std", np.nan)


def _agree(kept: KeptTree, sums: np.ndarray, whitening: tuple[float, float] | None) -> bool:
    assert kept.advantages is not None
    advantages = kept.advantages.values
    if sums.shape != advantages.shape:
        return False
    if whitening is not None:
        sums = (sums - whitening[0]) / whitening[1]
    # Advantages without tokens are 0 after whitening.
    has_tokens = kept.advantages.token_counts(kept.tree) > 0
    return bool(np.allclose(sums[has_tokens], advantages[has_tokens], rtol=TOLERANCE, atol=TOLERANCE))


def _component_json(component: Component) -> dict[str, Any]:
    return {name: short(value) if isinstance(value, float) else value for name, value in vars(component).items()}

"""Estimators that see one flat group of trajectories per problem: the shape of the tree plays no part, but for what a
leaf counts (`leaves = "unbiased"`).

A tree of a single leaf has nothing to compare it with: its baseline is 0, and its std 1 where there is one. With
`leaves = "unbiased"` and a single leaf that counts among G > 1, the mean is that leaf's own reward: it has advantage 0,
but G R from `RLOO`, whose baseline is 0.
Letters: G leaves of the tree · R_i reward of leaf i · m_i what it counts, 1 by default; means and stds are over
leaves so counted, and with `leaves = "unbiased"` each A_i is multiplied by m_i (`LeafEstimator`).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from treepo.credit.base import Component, LeafEstimator, mean_of, std_of
from treepo.errors import SettingError
from treepo.tree import ROOT, Tree


def centred(rewards: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """m_i (R_i - mean R); a single reward as it is."""
    return counts * (rewards - mean_of(rewards, counts)) if len(rewards) > 1 else rewards


def group_components(rewards: np.ndarray, counts: np.ndarray, scale: float = 1.0) -> list[list[Component]]:
    """m_i (R_i - mean R) x scale, a single reward as it is, each as one component. counts [L]: m."""
    mean, size = mean_of(rewards, counts), int(np.count_nonzero(counts))
    baseline, name = (mean, "all leaves") if len(rewards) > 1 else (0.0, "no other leaf")
    return [
        [Component(name, ROOT, size, mean, reward - baseline, count * scale)]
        for reward, count in zip(rewards.tolist(), counts.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class DrGRPO(LeafEstimator):
    """A_i = R_i - mean R.

    Source: Dr. GRPO, arXiv 2503.20783, section 3.2: without the std, problems that are nearly solved or nearly never
    solved get no more weight than their rewards give them. Its authors also divide by a constant length
    (`aggregation.use = "ConstantLength"`).
    """

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        counts = self.counts(tree)
        return centred(rewards, counts) / self._divisor(rewards, counts)

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        counts = self.counts(tree)
        return group_components(rewards, counts, 1 / self._divisor(rewards, counts))

    def _divisor(self, rewards: np.ndarray, counts: np.ndarray) -> float:
        return 1.0


@dataclass(frozen=True)
class GRPO(DrGRPO):
    """A_i = (R_i - mean R) / (std R + eps), with the unbiased std.

    Source: DeepSeekMath, arXiv 2402.03300, section 4.1.2, which says neither which std nor eps: both are verl's.
    Assumes that problems with rare successes, or rare failures, should weigh as much as others.
    """

    eps: float = 1e-6
    """Added to the standard deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps <= 0:
            raise SettingError("eps", "must be positive", self.eps)

    def _divisor(self, rewards: np.ndarray, counts: np.ndarray) -> float:
        return std_of(rewards, counts) + self.eps


@dataclass(frozen=True)
class RLOO(LeafEstimator):
    """A_i = R_i - mean of the other leaves' rewards = G / (G - 1) (R_i - mean R).

    Source: Ahmadian et al., arXiv 2402.14740. The baseline does not depend on the leaf's own reward, so
    the gradient is unbiased where leaves are independent samples; those of a tree that forks below its root are not.
    With `leaves = "unbiased"` the others are the leaves that share no draw with leaf i, those below other children of
    the prompt, even if tokens are the same: their weighted mean has the policy's as its own, whatever i's tokens do to
    their number, and the gradient is exact in every tree. Where the prompt has a single child, the baseline is 0.
    """

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        counts = self.counts(tree)
        if self.leaves == "equal":
            return centred(rewards, counts) * (len(rewards) / max(len(rewards) - 1, 1))
        return counts * (rewards - self._baselines(tree, rewards, counts)[0])

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        counts = self.counts(tree)
        if self.leaves == "equal":
            return group_components(rewards, counts, len(rewards) / max(len(rewards) - 1, 1))
        baselines, sizes = self._baselines(tree, rewards, counts)
        name = "leaves below other children of the prompt"
        return [
            [Component(name, ROOT, int(size), float(mean), float(reward - mean), float(count))]
            for size, mean, reward, count in zip(sizes, baselines, rewards, counts, strict=True)
        ]

    def _baselines(self, tree: Tree, rewards: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per leaf the mean reward of the leaves below other children of the prompt, and how many of them count."""
        branches = np.array([tree.path(leaf)[1] for leaf in tree.leaves()])
        others = counts * (branches != branches[:, None])
        totals = others.sum(axis=1)
        return others @ rewards / np.where(totals > 0, totals, 1.0), np.count_nonzero(others, axis=1)


@dataclass(frozen=True)
class REINFORCEPlusPlus(DrGRPO):
    """A_i = R_i - mean R, whitened over the response tokens of the whole batch: the variant with a baseline.

    Source: REINFORCE++, arXiv 2501.03262, its "w/ baseline". One std for all problems: those whose rewards vary more
    weigh more. Assumes batches that are large enough for it.
    """

    whiten: bool = field(default=True, kw_only=True)
    """Whether the advantages are then whitened over the response tokens of the whole batch."""


@dataclass(frozen=True)
class MaxRL:
    """A_i = (R_i - mean R) / mean R; 0 where no leaf is rewarded.

    Source: MaxRL, arXiv 2602.02710, the practical form of its algorithm 1. With rewards of 1 and 0 and success rate p
    the expected update is sum_{k=1}^{G-1} (1 - p)^(k-1) grad p: the first G - 1 orders of grad log p = grad p / p, so
    problems that are rarely solved weigh more, up to G - 1 times (not at all with G = 2). Assumes rewards that are not
    negative (else ValueError), and leaves that are independent samples.
    """

    per_node: ClassVar[bool] = False

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        if rewards.min() < 0:
            raise ValueError(f"needs rewards that are not negative, got {rewards.min()}")
        mean = rewards.mean()
        return (rewards - mean) / mean if mean > 0 else np.zeros(len(rewards))

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        mean = float(rewards.mean())
        if mean <= 0:
            return [[] for _ in rewards]
        return [
            [Component("all leaves", ROOT, len(rewards), mean, reward - mean, 1 / mean)] for reward in rewards.tolist()
        ]

"""Estimators that see one flat group of trajectories per problem: the shape of the tree plays no part.

A single leaf has nothing to be compared with: its baseline is 0, and its std 1 where there is one.
Letters: G leaves of the tree · R_i reward of leaf i.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from treepo.tree import Tree


def centred(rewards: np.ndarray) -> np.ndarray:
    """R_i - mean R; a single reward as it is."""
    return rewards - rewards.mean() if len(rewards) > 1 else rewards


@dataclass(frozen=True)
class GRPO:
    """A_i = (R_i - mean R) / (std R + eps), with the unbiased std.

    Source: DeepSeekMath, arXiv 2402.03300, section 4.1. Assumes that problems with rare successes, or rare failures,
    should weigh as much as others.
    """

    per_node: ClassVar[bool] = False

    eps: float = 1e-6
    """Added to the standard deviation."""

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ValueError(f"eps must not be negative, got {self.eps}")

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        std = rewards.std(ddof=1) if len(rewards) > 1 else 1.0
        return centred(rewards) / (std + self.eps)


@dataclass(frozen=True)
class DrGRPO:
    """A_i = R_i - mean R.

    Source: Dr. GRPO, arXiv 2503.20783, section 3.2: without the std, problems that are nearly solved or nearly never
    solved get no more weight than their rewards give them. Its authors also divide by a constant length
    (`aggregation.use = "ConstantLength"`).
    """

    per_node: ClassVar[bool] = False

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        return centred(rewards)


@dataclass(frozen=True)
class RLOO:
    """A_i = R_i - mean of the other leaves' rewards = G / (G - 1) (R_i - mean R).

    Source: Ahmadian et al., arXiv 2402.14740. The baseline does not depend on the leaf's own reward, so
    the gradient is unbiased where leaves are independent samples; those of a tree that forks below its root are not.
    """

    per_node: ClassVar[bool] = False

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        return centred(rewards) * (len(rewards) / max(len(rewards) - 1, 1))


@dataclass(frozen=True)
class REINFORCEPlusPlus:
    """A_i = R_i - mean R, whitened over the response tokens of the whole batch: the variant with a baseline.

    Source: REINFORCE++, arXiv 2501.03262, its "w/ baseline". One std for all problems: those whose rewards vary more
    weigh more. Assumes batches that are large enough for it.
    """

    per_node: ClassVar[bool] = False

    whiten: bool = True
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        return centred(rewards)


@dataclass(frozen=True)
class MaxRL:
    """A_i = (R_i - mean R) / mean R; 0 where no leaf is rewarded.

    Source: MaxRL, arXiv 2602.02710, the practical form of its algorithm 1. With rewards of 1 and 0 this follows the
    gradient of log(success rate), of which the expected reward is the first order, so problems that are rarely solved
    weigh more. Assumes rewards that are not negative, and leaves that are independent samples.
    """

    per_node: ClassVar[bool] = False

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        if rewards.min() < 0:
            raise ValueError(f"credit.use: MaxRL needs rewards that are not negative, got {rewards.min()}")
        mean = rewards.mean()
        return (rewards - mean) / mean if mean > 0 else np.zeros(len(rewards))

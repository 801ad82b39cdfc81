"""Estimators that see one flat group of trajectories per problem."""

from dataclasses import dataclass

import numpy as np

from treepo.tree import Tree


@dataclass(frozen=True)
class GRPO:
    """A_i = (R_i - mean R) / (std R + eps) over all leaves of the tree, with the unbiased std.

    Source: DeepSeekMath, arXiv 2402.03300, section 4.1. A single leaf has mean 0 and std 1, so its advantage is its
    reward.
    """

    eps: float = 1e-6
    """Added to the standard deviation."""

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ValueError(f"eps must not be negative, got {self.eps}")

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        if len(rewards) == 1:
            return rewards / (1.0 + self.eps)
        return (rewards - rewards.mean()) / (rewards.std(ddof=1) + self.eps)

"""How an advantage came about: the comparisons that it is a weighted sum of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from treepo.credit.base import mean_of
from treepo.tree import ROOT, Tree


@dataclass(frozen=True)
class Term:
    """One summand, mostly a comparison. An advantage is the sum of `weight` x `value` over its terms, 0 if it has none.

    name: what it compares with, in a few words. node: whose leaves are that group; size: how many of them count (of
    `SPO`, how many siblings). mean: the group's mean reward, or value. value: how far what is credited is from it; of
    `FadingDifference`, which compares values that have faded differently, the value V of `node` itself.
    """

    name: str
    node: int
    size: int
    mean: float
    value: float
    weight: float


def node_name(node: int) -> str:
    """What names of terms call a node."""
    return "the prompt" if node == ROOT else f"node {node}"


@runtime_checkable
class Explained(Protocol):
    """An estimator that can say how its advantages come about; all of ours can."""

    def terms(self, tree: Tree, rewards: np.ndarray) -> list[list[Term]]:
        """Per advantage its terms; where it has one per node and trajectory, of their mean over the trajectories
        through each node (`Tree.per_node`)."""
        ...


def sums_of(terms: Sequence[Sequence[Term]]) -> np.ndarray:
    """float64: what terms add up to."""
    return np.array([sum(term.weight * term.value for term in own) for own in terms], np.float64)


def group_terms(rewards: np.ndarray, counts: np.ndarray, scale: float = 1.0) -> list[list[Term]]:
    """m_i (R_i - mean R) x scale, a single reward as it is, each as one term. counts [L]: m."""
    mean, size = mean_of(rewards, counts), int(np.count_nonzero(counts))
    baseline, name = (mean, "all leaves") if len(rewards) > 1 else (0.0, "no other leaf")
    return [
        [Term(name, ROOT, size, mean, reward - baseline, count * scale)]
        for reward, count in zip(rewards.tolist(), counts.tolist(), strict=True)
    ]

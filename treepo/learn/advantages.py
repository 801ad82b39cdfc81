"""From rewards to advantages for all trees of a step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from treepo.credit.base import Advantages, Estimator, whiten_with, whitening_moments, without_observed
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import StrategyError
from treepo.tree import Tree


@dataclass(frozen=True, eq=False)
class StepAdvantages:
    """The advantages of a step's trees.

    by_tree: None for a tree that is not trained on. metrics: advantages/raw_mean and advantages/raw_std, what was
    subtracted from the advantages and what they were then divided by, if they were whitened.
    """

    by_tree: list[Advantages | None]
    metrics: dict[str, float]


def has_signal(rewards: np.ndarray) -> bool:
    """Whether the rewards of a tree's leaves differ; where all agree, or are nan, there is nothing to learn."""
    known = rewards[~np.isnan(rewards)]
    return len(known) > 0 and bool(known.min() < known.max())


def rewarded_part(tree: Tree, rewards: np.ndarray) -> tuple[Tree, np.ndarray]:
    """The tree of the leaves that have a reward, and their rewards: the others, which are nan, might not be there."""
    known = ~np.isnan(rewards)
    if known.all():
        return tree, rewards
    leaves = tree.leaves()
    return tree.with_leaves([leaves[i] for i in np.flatnonzero(known)]), rewards[known]


def in_whole_tree(advantages: Advantages, tree: Tree, rewards: np.ndarray) -> Advantages:
    """The advantages of `rewarded_part` in the shape of the whole tree, 0 for what is not in the part."""
    known = np.flatnonzero(~np.isnan(rewards))
    if len(known) == len(rewards):
        return advantages
    leaves, values = tree.leaves(), advantages.values
    nodes = tree.nodes_above([leaves[i] for i in known])
    if advantages.per_token:
        is_known = np.repeat(~np.isnan(rewards), tree.response_lens())
        whole = np.zeros(len(is_known))
        whole[is_known] = values
    elif not advantages.per_node:
        whole = np.zeros(len(leaves))
        whole[known] = values
    elif values.ndim == 1:
        whole = np.zeros(len(tree.nodes))
        whole[nodes] = values
    else:
        whole = np.zeros((len(tree.nodes), len(leaves)))
        whole[np.array(nodes)[:, None], known] = values
    return replace(advantages, values=whole)


def compute_advantages(
    trees: Sequence[Tree],
    rewards: Sequence[np.ndarray],
    estimator: Estimator,
    max_trees: int | None = None,
    processes: DistContext = SINGLE_PROCESS,
) -> StepAdvantages:
    """Credit the first `max_trees` trees whose rewards differ, and whiten their advantages if the estimator says so.

    rewards: per tree one per leaf [L]. processes: those among which the trees are divided; each has to call this, with
    or without trees of its own. Raises StrategyError that names the estimator if it refuses the rewards, or returns
    another shape than `Advantages` has or what is not finite.
    """
    kept = [i for i, r in enumerate(rewards) if has_signal(r)][:max_trees]
    with processes.synced_errors():
        advantages = [estimate_advantages(estimator, trees[i], rewards[i]) for i in kept]
    metrics: dict[str, float] = {}
    if estimator.whiten:
        values = [a.values for a in advantages]
        counts = [a.token_counts(trees[i]) for i, a in zip(kept, advantages, strict=True)]
        mean, std = whitening_moments(values, counts, processes.all_reduce)
        advantages = [Advantages.by(estimator, white) for white in whiten_with(values, counts, mean, std)]
        metrics = {"advantages/raw_mean": mean, "advantages/raw_std": std}
    by_tree = dict(zip(kept, advantages, strict=True))
    return StepAdvantages([by_tree.get(i) for i in range(len(trees))], metrics)


def estimate_advantages(estimator: Estimator, tree: Tree, rewards: np.ndarray) -> Advantages:
    name = type(estimator).__name__
    try:
        advantages = Advantages.by(estimator, estimator(without_observed(tree), rewards))
    except ValueError as error:
        raise StrategyError(f"credit: {name}: {error}") from error
    try:
        advantages.check_shape(tree)
    except ValueError as error:
        raise StrategyError(f"credit: {name} returned {error}") from error
    if not np.isfinite(advantages.values).all():
        raise StrategyError(f"credit: {name} returned an advantage that is not finite")
    return advantages

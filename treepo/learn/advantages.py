"""From rewards to advantages for all trees of a step."""

from collections.abc import Sequence

import numpy as np

from treepo.credit.base import Estimator, token_counts, whiten_with, whitening
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import StrategyError
from treepo.tree import Tree


def has_signal(rewards: np.ndarray) -> bool:
    """Whether the rewards of a tree's leaves differ; where all agree there is nothing to learn."""
    return bool(rewards.min() < rewards.max())


def credit(
    trees: Sequence[Tree],
    rewards: Sequence[np.ndarray],
    estimator: Estimator,
    max_trees: int | None = None,
    processes: DistContext = SINGLE_PROCESS,
) -> list[np.ndarray | None]:
    """The advantages that `compute_advantages` gives."""
    return compute_advantages(trees, rewards, estimator, max_trees, processes)[0]


def compute_advantages(
    trees: Sequence[Tree],
    rewards: Sequence[np.ndarray],
    estimator: Estimator,
    max_trees: int | None = None,
    processes: DistContext = SINGLE_PROCESS,
) -> tuple[list[np.ndarray | None], dict[str, float]]:
    """The advantages of each tree's leaves, or of its nodes; None for a tree without a signal, and for those beyond the
    first `max_trees` that have one. And advantages/raw_mean, advantages/raw_std: what was subtracted from them and what
    they were then divided by, if they were whitened.

    processes: those among which the trees are divided; each has to call this, with or without trees of its own. Raises
    StrategyError naming the estimator for what it cannot credit, see `estimated`.
    """
    kept = [i for i, r in enumerate(rewards) if has_signal(r)][:max_trees]
    with processes.synced_errors():
        advantages = [estimated(estimator, trees[i], rewards[i]) for i in kept]
    metrics: dict[str, float] = {}
    if estimator.whiten:
        counts = [token_counts(trees[i], a) for i, a in zip(kept, advantages, strict=True)]
        mean, std = whitening(advantages, counts, processes.all_reduce)
        advantages = whiten_with(advantages, counts, mean, std)
        metrics = {"advantages/raw_mean": mean, "advantages/raw_std": std}
    by_tree = dict(zip(kept, advantages, strict=True))
    return [by_tree.get(i) for i in range(len(trees))], metrics


def estimated(estimator: Estimator, tree: Tree, rewards: np.ndarray) -> np.ndarray:
    """float64: what an estimator makes of a tree, one per leaf [L], or with `per_node` one per node [N] or per node and
    leaf [N, L]. Raises StrategyError naming it if it refuses the rewards, or returns another shape or what is not
    finite."""
    name, num_nodes, num_leaves = type(estimator).__name__, len(tree.nodes), len(rewards)
    try:
        advantages = np.asarray(estimator(tree, rewards), np.float64)
    except ValueError as error:
        raise StrategyError(f"credit: {name}: {error}") from error
    shapes = [(num_nodes,), (num_nodes, num_leaves)] if estimator.per_node else [(num_leaves,)]
    if advantages.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise StrategyError(
            f"credit: {name} returned advantages of shape {advantages.shape}, expected {expected} for a tree of "
            f"{num_nodes} nodes and {num_leaves} leaves with per_node = {estimator.per_node}"
        )
    if not np.isfinite(advantages).all():
        raise StrategyError(f"credit: {name} returned an advantage that is not finite")
    return advantages

"""Where in a step's trees there is a signal, and where advantages differ: figures by depth.

A group is the leaves below a node, if they are at least two. Its depth is that of the node: segments below the prompt,
a cut inside a segment counting as one. Nodes of one depth with the same leaves (a segment that is cut where nothing
forks) are one group; an unbranched chain of segments repeats its group once per depth.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from treepo.grow import TreeShape
from treepo.tree import ROOT, Tree


def depths(tree: Tree, shape: TreeShape) -> np.ndarray:
    """int64 [N]: segments from the prompt to the end of each node. shape: that of the rules, not yet aligned."""
    children = tree.children()
    own = shape.for_prompt(len(tree.prompt_ids), len(children[ROOT]))
    lengths = np.zeros(len(tree.nodes), np.int64)
    for node in tree.top_down():
        for child in children[node]:
            lengths[child] = lengths[node] + len(tree.nodes[child].token_ids)
    return np.array([own.num_segments(length) for length in lengths.tolist()])


def group_figures(trees: Sequence[Tree], rewards: Sequence[np.ndarray], shape: TreeShape) -> dict[str, float]:
    """The groups of all trees, by depth k.

    groups/depth_k/num: how many per tree. no_signal: the share of them whose rewards all agree. reward_mean,
    reward_std: the mean over groups of the mean of their rewards, and of their std (over leaves, not unbiased).
    """
    by_depth: dict[int, list[np.ndarray]] = defaultdict(list)
    for tree, own in zip(trees, rewards, strict=True):
        depth = depths(tree, shape)
        groups = {(int(depth[node]), tuple(leaves)) for node, leaves in tree.groups().items() if len(leaves) > 1}
        for k, leaves in groups:
            by_depth[k].append(own[list(leaves)])
    figures: dict[str, float] = {}
    for k, groups in sorted(by_depth.items()):
        name = f"groups/depth_{k}"
        figures[f"{name}/num"] = len(groups) / len(trees)
        figures[f"{name}/no_signal"] = float(np.mean([group.min() == group.max() for group in groups]))
        figures[f"{name}/reward_mean"] = float(np.mean([group.mean() for group in groups]))
        figures[f"{name}/reward_std"] = float(np.mean([group.std() for group in groups]))
    return figures


def advantage_figures(
    trees: Sequence[Tree], advantages: Sequence[np.ndarray | None], shape: TreeShape
) -> dict[str, float]:
    """How far advantages spread, over the trees that have some: std around the mean of all that are of one depth.

    advantages/depth_k/std: one per leaf: over the leaves whose last fork, the deepest node above with at least two
    leaves below, is of depth k; a tree of one leaf has none. One per node: over the nodes of depth k that lead to a
    leaf. advantages/within: the share of the variance of all these that is within leaves of the same last fork, or
    within nodes of the same parent; the rest is between them. 0 where there is no variance.
    """
    by_depth: dict[int, list[float]] = defaultdict(list)
    by_fork: dict[tuple[int, int], list[float]] = defaultdict(list)
    for i, (tree, own) in enumerate(zip(trees, advantages, strict=True)):
        if own is None:
            continue
        depth = depths(tree, shape)
        for node, fork, advantage in _node_places(tree, own) if tree.is_per_node(own) else _leaf_places(tree, own):
            by_depth[int(depth[node])].append(advantage)
            by_fork[i, fork].append(advantage)
    figures = {f"advantages/depth_{k}/std": float(np.std(values)) for k, values in sorted(by_depth.items())}
    if by_fork:
        total = _squares([value for values in by_fork.values() for value in values])
        within = sum(_squares(values) for values in by_fork.values())
        figures["advantages/within"] = min(within / total, 1.0) if total > 0 else 0.0
    return figures


def _leaf_places(tree: Tree, advantages: np.ndarray) -> Iterable[tuple[int, int, float]]:
    """(last fork, last fork, advantage) of each leaf that has one."""
    groups = tree.groups()
    for leaf, advantage in zip(tree.leaves(), advantages.tolist(), strict=True):
        forks = [node for node in tree.path(leaf) if len(groups[node]) > 1]
        if forks:
            yield forks[-1], forks[-1], advantage


def _node_places(tree: Tree, advantages: np.ndarray) -> Iterable[tuple[int, int, float]]:
    """(node, its parent, mean advantage) of each node below the root that leads to a leaf."""
    values = tree.per_node(advantages)
    return [(node, tree.nodes[node].parent, float(values[node])) for node in tree.groups() if node != ROOT]


def _squares(values: Sequence[float]) -> float:
    """The sum of squares around the mean; exactly 0 where all are equal."""
    return float(np.var(values) * len(values)) if min(values) < max(values) else 0.0

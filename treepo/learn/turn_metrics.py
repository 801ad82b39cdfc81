"""Metrics of trees over several turns."""

from collections.abc import Sequence

import numpy as np

from treepo.tree import LOST, Tree


def turn_metrics(trees: Sequence[Tree]) -> dict[str, float]:
    """turns/mean, turns/max: turns of the model per trajectory, one that was cut off included; tokens/observed: tokens
    that environments and the chat template wrote, shared ones once; environment/lost: the share of trajectories whose
    environment failed, and which are not learned from."""
    turns = [len(tree.turn_starts(leaf)) for tree in trees for leaf in tree.leaves()]
    lost = [tree.nodes[leaf].stop in LOST for tree in trees for leaf in tree.leaves()]
    return {
        "turns/mean": float(np.mean(turns)),
        "turns/max": max(turns),
        "tokens/observed": sum(len(node.token_ids) for tree in trees for node in tree.nodes if node.observed),
        "environment/lost": float(np.mean(lost)),
    }

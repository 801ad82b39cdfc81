"""The entropy of the distribution that each token of a tree was drawn from, by the policy as it is."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from treepo.learn.update import Updater
from treepo.tree import Tree


def tree_entropies(trees: Sequence[Tree], updater: Updater) -> list[list[np.ndarray]]:
    """Per tree and node float32 [n], in nats: of softmax(logits / temperature) before each of its tokens; nan for the
    prompt, and for a node that leads to no leaf. One forward without gradients over what the trees do not share."""
    firsts = np.cumsum([0, *(len(tree.nodes) for tree in trees)])
    # Given as advantages, the numbers of nodes go wherever their terms go, whatever is merged, parted or cut.
    numbers = [first + np.arange(len(tree.nodes)) for tree, first in zip(trees, firsts, strict=False)]
    packed = [part for tree, own in zip(trees, numbers, strict=True) for part in updater.pack(tree, own)]
    found = [np.full(len(node.token_ids), np.nan, np.float32) for tree in trees for node in tree.nodes]
    parts, scored = updater.within_memory(packed, updater.scorer.entropies)
    for part, entropies in zip(parts, scored, strict=True):
        counts = part.leaf_ends - part.leaf_starts
        node_of_term = part.own_advantages[np.cumsum(counts) - counts].astype(int)
        # Terms rise with their predecessors, so those of one node stand in the order of its tokens.
        order = np.argsort(node_of_term, kind="stable")
        nodes, starts = np.unique(node_of_term[order], return_index=True)
        for node, own in zip(nodes.tolist(), np.split(entropies[order], starts[1:]), strict=True):
            found[node] = own.astype(np.float32)
    return [found[start:end] for start, end in pairwise(firsts.tolist())]

"""What each leaf of a tree weighs in an average that stands for the policy's own distribution."""

from typing import Literal

import numpy as np

from treepo.tree import ROOT, StopReason, Tree

FallbackLeaves = Literal["ignored", "alike", "all"]
"""Which trajectories that a fallback drew count: none; those that end like an original; all."""


def leaf_weights(tree: Tree, fallback_leaves: FallbackLeaves = "ignored") -> np.ndarray:
    """float64 per leaf, in the order of `Tree.leaves`, summing to 1: the product of its nodes' `shares`.

    w_i = product over the nodes v on the path to leaf i of 1 / c(v), with c(v) the children drawn where v was drawn.
    Then E[sum_i w_i f(leaf i)] = E_policy[f] for every f, although long paths have more leaves than short ones.

    docs/leaf_weights.md has the proof, a martingale, and says where it ends. It needs children that are drawn
    independently from the policy after their number was decided, and paths that end by what is on them alone: even,
    random, token-budget and log-probability branching, any initial fork and token budgets all qualify. "The policy" is
    what one path does in a tree of this shape: temperature, limits and stop rules included.

    A fallback adds siblings to a fork whose outcome it has seen, as in gambling until one is even. What counts then:

    ignored: nothing that it drew (weight 0). Exact for every fallback.
    alike: unforked paths from one node with as many tokens and the same stop reason share what the originals among them
        have. Exact, and never of larger variance, if growing looks at lengths and stop reasons alone and cuts at
        segment boundaries.
    all: like any sibling. Biased, unless the fallback would have been the same whatever had been drawn.

    With `min_response_len`, exact while no trajectory is dropped. Siblings that begin alike are draws of their own, and
    count as such: never merge them before weighing.
    """
    below = shares(tree, fallback_leaves)
    weights = np.zeros(len(tree.nodes))
    for index in tree.top_down():
        parent = tree.nodes[index].parent
        weights[index] = 1.0 if index == ROOT else weights[parent] * below[index]
    return weights[tree.leaves()]


def shares(tree: Tree, fallback_leaves: FallbackLeaves = "ignored") -> np.ndarray:
    """float64 per node: what it has of its parent's weight, 1 over the children of each node; 1 for the root.

    See `leaf_weights`. If nothing else is left below a node, what a fallback drew there counts as original.
    """
    result = np.ones(len(tree.nodes))
    ends = _ends(tree) if fallback_leaves == "alike" else {}
    drawn = [[i for i in children if not tree.nodes[i].observed] for children in tree.children()]
    for children in filter(None, drawn):
        originals = [i for i in children if not tree.nodes[i].from_fallback] or children
        if fallback_leaves == "all":
            originals = children
        result[children] = 0.0
        result[originals] = 1 / len(originals)
        if ends:
            for end in {ends[i] for i in children} - {None}:
                alike = [i for i in children if ends[i] == end]
                result[alike] = result[alike].mean()
    return result


def group_means(tree: Tree, values: np.ndarray, fallback_leaves: FallbackLeaves = "ignored") -> np.ndarray:
    """float64 per node: the weighted mean of `values` (one per leaf) over the leaves at or below it.

    Weights are relative to the node, so that it is unbiased for the policy's mean after the prefix that ends there; the
    root's is the tree's. A leaf has to lie below every node, as in grown trees.
    """
    below = shares(tree, fallback_leaves)
    means = np.zeros(len(tree.nodes))
    means[tree.leaves()] = values
    for index in reversed(list(tree.top_down())):
        if index != ROOT:
            means[tree.nodes[index].parent] += below[index] * means[index]
    return means


def weighted_mean(tree: Tree, values: np.ndarray, fallback_leaves: FallbackLeaves = "ignored") -> float:
    """The mean of `values` (one per leaf) that is unbiased for the policy's own; see `leaf_weights`."""
    return float(leaf_weights(tree, fallback_leaves) @ values)


def _ends(tree: Tree) -> dict[int, tuple[int, StopReason] | None]:
    """For each node: tokens to its leaf and why that ended, if a single unforked path leads there."""
    below = tree.children()
    # What was observed is above leaves, or, as estimators see trees, above nothing.
    children = [[i for i in own if below[i] or not tree.nodes[i].observed] for own in below]
    ends: dict[int, tuple[int, StopReason] | None] = {}
    for index in reversed(list(tree.top_down())):
        node = tree.nodes[index]
        ends[index] = None
        if node.stop is not None:
            ends[index] = tree.num_sampled(index), node.stop
        elif len(children[index]) == 1:
            [child] = children[index]
            end = ends[child]
            ends[index] = end and (end[0] + tree.num_sampled(index), end[1])
    return ends

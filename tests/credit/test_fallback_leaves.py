"""What is left of a bias where what a fallback drew counts like any sibling, and which paths count as alike."""

from dataclasses import replace

import numpy as np
import pytest

from tests.credit.exact import TinyPolicy, all_trees, value_of, values_of
from tests.credit.test_leaf_weights import ONE, SMALL, rules
from tests.trees import add_segment, tree_of
from treepo.credit.leaf_weights import FallbackLeaves, group_means, leaf_weights, shares, weighted_mean
from treepo.grow.fallback import Backtrack
from treepo.tree import ROOT, StopReason, Tree


def formula(tree: Tree, policy: TinyPolicy, most: int, kind: FallbackLeaves) -> float:
    """sum over fallback nodes x of w_x a (V(x) - S), with w_x by this kind."""
    below, means = shares(tree, kind), group_means(tree, values_of(tree))
    weights, total = np.ones(len(tree.nodes)), 0.0
    for x, children in enumerate(tree.children()):
        if x != ROOT:
            weights[x] = weights[tree.nodes[x].parent] * below[x]
        resumed = [i for i in children if tree.nodes[i].from_fallback]
        if 0 < len(resumed) < len(children):
            value = policy.mean(value_of, most, start=tree.ids(x)[1:].tolist())
            total += weights[x] * len(resumed) / len(children) * (value - means[x])
    return total


@pytest.mark.parametrize(
    ("width", "order", "bias", "by_ignored"),
    [(3, "all", -0.018367, -0.020572), (3, "answered", -0.013101, -0.015102), (4, "all", -0.016613, -0.020434)],
)
def test_the_bias_of_all_is_what_the_docs_say(width, order, bias, by_ignored) -> None:
    """The page gave the formula with the weights of `ignored`, which are 0 where a fallback resumed its own draws."""
    policy, shape = TinyPolicy(2), replace(SMALL, width=width, num_children=1)
    most = shape.max_response_tokens
    found = np.zeros(3)
    for probability, tree in all_trees(rules(shape, ONE, fallback=Backtrack(order)), policy):
        kinds = [formula(tree, policy, most, kind) for kind in ("all", "ignored")]
        found += probability * np.array([weighted_mean(tree, values_of(tree), "all"), *kinds])
    assert found[0] - policy.mean(value_of, most) == pytest.approx(found[1], abs=1e-12)
    assert found[1:] == pytest.approx([bias, by_ignored], abs=1e-6)


def test_forked_paths_are_not_alike() -> None:
    """An original that forks and a fallback's that does share nothing: neither is a single path."""
    tree = tree_of({0: (1, 2), 1: (3, 4)})
    fork = add_segment(tree, ROOT, [1], from_fallback=True)
    for token in (2, 3):
        add_segment(tree, fork, [token], StopReason.EOS)
    assert leaf_weights(tree, "alike") == pytest.approx([0.5, 0.25, 0.25, 0, 0])

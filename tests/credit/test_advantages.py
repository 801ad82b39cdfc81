"""Advantages know whether they are of leaves or of nodes, whatever their number."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import complete_tree, tree_of, trees
from treepo.credit.base import Advantages
from treepo.learn.packing import pack
from treepo.tree import Node

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("shape", "per_node", "fits"),
    [
        ((4,), False, True),
        ((7,), False, False),
        ((7, 4), False, False),
        ((7,), True, True),
        ((7, 4), True, True),
        ((4,), True, False),
        ((4, 7), True, False),
    ],
)
def test_the_shape_is_checked_against_the_tree(shape, per_node, fits):
    advantages, tree = Advantages(np.zeros(shape), per_node), complete_tree(2)
    if fits:
        advantages.check_shape(tree)
        pack(tree, advantages)
        return
    message = re.escape(f"advantages of shape {shape}")
    for check in (advantages.check_shape, lambda tree: pack(tree, advantages)):
        with pytest.raises(ValueError, match=message):
            check(tree)


def test_a_plain_array_is_of_leaves():
    """One with as many values as there are nodes was taken for one of nodes."""
    with pytest.raises(ValueError, match="per_node = False"):
        pack(complete_tree(2), np.zeros(7))
    assert pack(complete_tree(2), np.arange(4)).leaf_advantages.tolist() == [0, 1, 2, 3]


def test_values_are_float64():
    assert Advantages(np.array([1, 2])).values.dtype == np.float64


def test_means_of_nodes_are_over_the_trajectories_through_them():
    """A node that leads to no leaf has none."""
    tree = tree_of({0: (1, 2), 2: (3, 4)})
    tree.add(Node(0, np.array([1], np.int32), np.zeros(1, np.float32), 0))
    values = np.arange(18.0).reshape(6, 3)
    assert Advantages(values, per_node=True).node_means(tree).tolist() == [1, 3, 7.5, 10, 14, 0]
    of_nodes = np.arange(6.0)
    assert Advantages(of_nodes, per_node=True).node_means(tree) is of_nodes


def test_tokens_that_have_an_advantage():
    """Those of a leaf's response; those of a node, once for each leaf below it; those of a node in a trajectory."""
    tree = tree_of({0: (1, 2), 2: (3, 4)}, num_tokens=[5, 2, 3, 4])
    assert Advantages(np.zeros(3)).token_counts(tree).tolist() == [5, 5, 6]
    assert Advantages(np.zeros(5), per_node=True).token_counts(tree).tolist() == [0, 5, 4, 3, 4]
    pairs = Advantages(np.zeros((5, 3)), per_node=True).token_counts(tree)
    assert pairs.tolist() == [[0, 0, 0], [5, 0, 0], [0, 2, 2], [0, 3, 0], [0, 0, 4]]


@given(trees(), st.integers(0, 2**32 - 1))
def test_tokens_have_the_advantage_of_their_leaf_or_node(tree, seed):
    """Summed over all paths, each value counts as often as tokens have it, in every shape of advantages."""
    rng = np.random.default_rng(seed)
    num_nodes, num_leaves = len(tree.nodes), len(tree.leaves())
    for per_node, size in ((False, (num_leaves,)), (True, (num_nodes,)), (True, (num_nodes, num_leaves))):
        advantages = Advantages(rng.normal(size=size), per_node)
        rows = advantages.by_token(tree)
        assert [len(row) for row in rows] == tree.response_lens().tolist()
        total = (advantages.values * advantages.token_counts(tree)).sum()
        assert sum(row.sum() for row in rows) == pytest.approx(total, rel=1e-9, abs=1e-9)
        first = tree.trajectories()[0]
        node = first.nodes[0]
        own = {False: (0,), True: (node, 0)[: len(size)]}[per_node]
        assert rows[0][0] == advantages.values[own]

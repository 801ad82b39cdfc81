"""The subgroup advantage against the paper's numbers, its definition, and what must not change it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import complete_tree, copy_of, relabelled, star, tree_of, trees
from treepo.credit import TreePO, whiten
from treepo.tree import ROOT, Tree

REWARDS = np.array([1.0, 1, -1, 1, -1, -1, -1, -1])


def rewards_for(tree: Tree, seed: int) -> np.ndarray:
    """A random reward per leaf, with ties."""
    return np.random.default_rng(seed).choice([-1.0, 0.0, 0.25, 1.0], len(tree.leaves()))


def by_definition(tree: Tree, rewards: np.ndarray) -> list[float]:
    """Equation 5 from parents alone: the mean over the ancestors that count of R_i - mean R below them."""
    leaves = tree.leaves()

    def ancestors(index: int) -> list[int]:
        parent = tree.nodes[index].parent
        return [] if parent < 0 else [parent, *ancestors(parent)]

    advantages = []
    for i, leaf in enumerate(leaves):
        differences = []
        for node in ancestors(leaf):
            group = [rewards[k] for k, other in enumerate(leaves) if node in ancestors(other)]
            if node == ROOT or len(group) >= 2:
                differences.append(rewards[i] - sum(group) / len(group))
        advantages.append(sum(differences) / len(differences))
    return advantages


def test_average_on_the_fixture() -> None:
    """Raw, complete binary tree with 8 leaves."""
    expected = [0.5833, 0.5833, -1.0833, 0.9167, -0.25, -0.25, -0.25, -0.25]
    assert TreePO()(complete_tree(3), REWARDS) == pytest.approx(expected, abs=5e-5)


def test_average_whitened_on_the_fixture() -> None:
    """Whitened over 4 tokens per leaf."""
    [advantages] = whiten([TreePO()(complete_tree(3), REWARDS)], [np.full(8, 4)])
    expected = [0.9464, 0.9464, -1.7576, 1.4872, -0.4056, -0.4056, -0.4056, -0.4056]
    assert advantages == pytest.approx(expected, abs=5e-5)


def test_whitening_is_the_default() -> None:
    """As in the authors' runs."""
    assert TreePO().whiten
    assert not TreePO(whiten=False).whiten


def test_a_chain_repeats_its_group() -> None:
    """The two depth-1 groups again at depth 2: leaf 1 gets (1.25 + .5 + .5) / 3 = .75, not the deduplicated .875."""
    tree = tree_of({0: [1, 2], 1: [3], 2: [4], 3: [5, 6, 7, 8], 4: [9, 10, 11, 12]})
    assert TreePO()(tree, REWARDS)[0] == pytest.approx(0.75)
    short = tree_of({0: [1, 2], 1: [3, 4, 5, 6], 2: [7, 8, 9, 10]})
    assert TreePO()(short, REWARDS)[0] == pytest.approx(0.875)


def test_nodes_with_one_leaf_are_skipped() -> None:
    """A chain that leads to a single leaf adds nothing, however long it is."""
    tree = tree_of({0: [1, 2], 1: [3], 3: [4], 4: [5]})
    assert tree.leaves() == [2, 5]
    assert TreePO()(tree, np.array([1.0, 0.0])) == pytest.approx([0.5, -0.5])


def test_the_root_counts_even_with_a_single_leaf() -> None:
    """A tree of one trajectory has advantage 0."""
    assert TreePO()(star(1), np.array([1.0])).tolist() == [0]
    assert TreePO()(tree_of({0: [1], 1: [2]}), np.array([-1.0])).tolist() == [0]


def test_a_fallback_inside_a_segment_makes_a_group() -> None:
    """The kept part of a split segment is an ancestor of the old path and of the new one."""
    tree = star(2, lengths=4)
    upper = tree.cut(1, 2)
    tree.add(type(tree.nodes[2])(upper, tree.nodes[2].token_ids, tree.nodes[2].sampled_logprobs, 0, tree.nodes[2].stop))
    rewards = np.array([1.0, 0.0, 0.0])
    expected = [(2 / 3 + 1 / 2) / 2, -1 / 3, (-1 / 3 - 1 / 2) / 2]
    assert TreePO()(tree, rewards) == pytest.approx(expected)


@settings(max_examples=300, deadline=None)
@given(trees(), st.integers(0, 2**32))
def test_average_equals_its_definition(tree: Tree, seed: int) -> None:
    """On random trees with chains, splits and leaves at any depth."""
    rewards = rewards_for(tree, seed)
    assert TreePO()(tree, rewards) == pytest.approx(by_definition(tree, rewards))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_on_a_star_only_the_mean_is_taken_off(rewards: list[float]) -> None:
    """TreePO on sequential sampling is the mean-centred reward."""
    values = np.array(rewards)
    assert TreePO()(star(len(values)), values) == pytest.approx(values - values.mean())


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 2**32))
def test_the_order_of_leaves_does_not_matter(tree: Tree, seed: int) -> None:
    """Nodes numbered otherwise: each leaf keeps its advantage."""
    rewards = rewards_for(tree, seed)
    other, old = relabelled(tree, np.random.default_rng(seed))
    assert TreePO()(other, rewards[old]) == pytest.approx(TreePO()(tree, rewards)[old])


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 2**32), st.floats(-5, 5), st.floats(0, 5))
def test_rewards_matter_only_by_their_differences(tree: Tree, seed: int, shift: float, scale: float) -> None:
    """A constant added changes nothing, and a factor scales the advantage: no subgroup's std divides it."""
    rewards = rewards_for(tree, seed)
    raw = TreePO()(tree, rewards)
    assert TreePO()(tree, rewards + shift) == pytest.approx(raw, abs=1e-9)
    assert TreePO()(tree, rewards * scale) == pytest.approx(raw * scale, abs=1e-9)
    assert TreePO()(tree, np.full(len(rewards), shift)) == pytest.approx(np.zeros(len(rewards)), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(trees(min_leaves=2), st.integers(0, 2**32))
def test_splits_that_nothing_branches_from_only_repeat_groups(tree: Tree, seed: int) -> None:
    """Splitting a segment above a single leaf changes no advantage."""
    rewards = rewards_for(tree, seed)
    other = copy_of(tree)
    single = [i for i, group in tree.groups().items() if len(group) == 1 and len(tree.nodes[i].token_ids) > 1]
    for index in single:
        other.split(index, 1)
    assert TreePO()(other, rewards) == pytest.approx(TreePO()(tree, rewards))

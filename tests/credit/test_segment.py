"""Advantages of nodes against naive implementations, numbers by hand, and what must not change them."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import add_segment, complete_tree, copy_of, star, tree_of, trees
from treepo.credit.base import Advantages, whiten
from treepo.credit.group import GRPO, DrGRPO
from treepo.credit.segment import SPO, FadingDifference, SegmentEstimator, TreeRL, ValueDifference
from treepo.tree import ROOT, Node, StopReason, Tree

pytestmark = pytest.mark.quick

REWARDS = np.array([1.0, 1, -1, 1, -1, -1, -1, -1])
OPTIONS = [*itertools.product(["children", "leaves"], [True, False])]
ESTIMATORS = [make(values, join) for make in (ValueDifference, SPO, TreeRL) for values, join in OPTIONS]


def rewards_for(tree: Tree, seed: int) -> np.ndarray:
    """A random reward per leaf, with ties, in eighths, which add without rounding."""
    return np.random.default_rng(seed).choice([-1.0, 0.0, 0.25, 1.0], len(tree.leaves()))


@dataclass
class Naive:
    """The published formulas by recursion over children, node by node."""

    tree: Tree
    rewards: dict[int, float]
    estimator: SegmentEstimator

    def children(self, n: int) -> list[int]:
        return [i for i, node in enumerate(self.tree.nodes) if node.parent == n and self.leaves(i)]

    def leaves(self, n: int) -> list[int]:
        return [leaf for leaf in self.rewards if n in self.tree.path(leaf)]

    def value(self, n: int) -> float:
        if n in self.rewards:
            return self.rewards[n]
        if self.estimator.values == "leaves":
            return sum(self.rewards[leaf] for leaf in self.leaves(n)) / len(self.leaves(n))
        return sum(map(self.value, self.children(n))) / len(self.children(n))

    def compared_with(self, n: int) -> int:
        parent = self.tree.nodes[n].parent
        if self.estimator.join_chains and parent != ROOT and len(self.children(parent)) == 1:
            return self.compared_with(parent)
        return parent

    def advantage(self, n: int) -> float:
        if n == ROOT or not self.leaves(n):
            return 0.0
        parent = self.compared_with(n)
        local = self.value(n) - self.value(parent)
        if isinstance(self.estimator, TreeRL):
            return ((self.value(n) - self.value(ROOT)) + local) / len(self.leaves(n)) ** 0.5
        if isinstance(self.estimator, SPO):
            siblings = [self.value(c) for c in self.children(parent)]
            mean = sum(siblings) / len(siblings)
            std = (sum((v - mean) ** 2 for v in siblings) / len(siblings)) ** 0.5
            return (self.value(n) - mean) / (std + self.estimator.eps) if std > 1e-9 else 0.0
        return local


def test_values_on_the_fixture() -> None:
    """Values are 1, 0, -1, -1 two segments below the root, .5 and -1 one below it, and -.25 at the root."""
    tree = complete_tree(3)
    assert ValueDifference().valued(tree, REWARDS).values[:7].tolist() == [-0.25, 0.5, -1, 1, 0, -1, -1]
    difference = ValueDifference()(tree, REWARDS)
    assert difference == pytest.approx([0, 0.75, -0.75, 0.5, -0.5, 0, 0, 0, 0, -1, 1, 0, 0, 0, 0])
    spo = SPO()(tree, REWARDS)
    assert spo == pytest.approx([0, 1, -1, 1, -1, 0, 0, 0, 0, -1, 1, 0, 0, 0, 0], abs=1e-5)
    tree_rl = TreeRL()(tree, REWARDS)
    expected = [0, 1.5 / 2, -1.5 / 2, 1.75 / 2**0.5, -0.25 / 2**0.5, *[-0.75 / 2**0.5] * 2]
    assert tree_rl == pytest.approx([*expected, 1.25, 1.25, -1.75, 2.25, *[-0.75] * 4])


def test_values_of_an_uneven_tree() -> None:
    """A leaf beside a fork counts half by children, a third by leaves."""
    tree, rewards = tree_of({0: [1, 2], 1: [3, 4]}), np.array([1.0, 0.0, 0.0])
    assert tree.leaves() == [2, 3, 4]
    assert ValueDifference("children").valued(tree, rewards).values[ROOT] == 0.5
    assert ValueDifference("leaves").valued(tree, rewards).values[ROOT] == pytest.approx(1 / 3)
    assert TreeRL()(tree, rewards)[2] == pytest.approx(2 * (1 - 1 / 3))


def test_values_are_by_default_those_that_were_published() -> None:
    """TreeRL's were the means of children's."""
    assert (ValueDifference().values, SPO().values, TreeRL().values) == ("children", "children", "leaves")


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@settings(max_examples=40, deadline=None)
@given(tree=trees(), seed=st.integers(0, 2**32))
def test_equals_a_naive_implementation(estimator: SegmentEstimator, tree: Tree, seed: int) -> None:
    """On random trees with chains, splits, leaves at any depth, and a path that never ended."""
    add_segment(tree, ROOT, [1, 2])
    rewards = rewards_for(tree, seed)
    advantages = estimator(tree, rewards)
    naive = Naive(tree, dict(zip(tree.leaves(), rewards.tolist(), strict=True)), estimator)
    assert advantages == pytest.approx([naive.advantage(n) for n in range(len(tree.nodes))], abs=1e-9)
    assert advantages[[ROOT, -1]].tolist() == [0, 0]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@settings(max_examples=40, deadline=None)
@given(tree=trees(), seed=st.integers(0, 2**32), shift=st.integers(-40, 40))
def test_what_all_of_them_promise(estimator: SegmentEstimator, tree: Tree, seed: int, shift: int) -> None:
    """The same for each node however nodes are numbered and whatever all rewards have in common; nothing where all
    agree."""
    rewards = rewards_for(tree, seed)
    advantages = estimator(tree, rewards)
    assert estimator(tree, rewards + shift / 8) == pytest.approx(advantages, abs=1e-6)
    assert estimator(tree, np.full(len(rewards), shift / 8)) == pytest.approx(np.zeros(len(tree.nodes)), abs=1e-9)
    other, olds = renumbered(tree, np.random.default_rng(seed))
    leaves = tree.leaves()
    own = np.array([rewards[leaves.index(olds[leaf])] for leaf in other.leaves()])
    assert estimator(other, own) == pytest.approx(advantages[olds], abs=1e-9)


def renumbered(tree: Tree, rng: np.random.Generator) -> tuple[Tree, list[int]]:
    """The same tree with its nodes below the root in another order, and the old number of each."""
    olds = [ROOT, *(1 + rng.permutation(len(tree.nodes) - 1)).tolist()]
    place = {old: new for new, old in enumerate(olds)} | {-1: -1}
    nodes = [tree.nodes[old] for old in olds]
    moved = [Node(place[n.parent], n.token_ids, n.sampled_logprobs, n.seed, n.stop) for n in nodes]
    return Tree(tree.problem_id, moved), olds


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.join_chains], ids=repr)
@settings(max_examples=40, deadline=None)
@given(tree=trees(), seed=st.integers(0, 2**32))
def test_borders_at_which_nothing_forks_change_nothing(estimator: SegmentEstimator, tree: Tree, seed: int) -> None:
    """Every node split in two: both parts have the advantage of the whole."""
    rewards, other = rewards_for(tree, seed), copy_of(tree)
    wholes = [i for i, n in enumerate(tree.nodes) if i != ROOT and len(n.token_ids) > 1]
    uppers = [other.split(i, 1) for i in wholes]
    before, after = estimator(tree, rewards), estimator(other, rewards)
    assert after[: len(before)] == pytest.approx(before, abs=1e-9)
    assert after[uppers] == pytest.approx(before[wholes], abs=1e-9)


def test_chains_that_are_not_joined_are_compared_with_themselves() -> None:
    """The second segment of a chain has its parent's value: 0, but for what TreeRL compares with the root."""
    tree, rewards = tree_of({0: [1, 2], 1: [3]}), np.array([0.0, 1.0])
    assert ValueDifference()(tree, rewards).tolist() == [0, 0.5, -0.5, 0.5]
    assert ValueDifference(join_chains=False)(tree, rewards).tolist() == [0, 0.5, -0.5, 0]
    assert SPO(join_chains=False)(tree, rewards) == pytest.approx([0, 1, -1, 0], abs=1e-5)
    assert TreeRL(join_chains=False)(tree, rewards).tolist() == [0, 1, -1, 0.5]


@settings(max_examples=60, deadline=None)
@given(trees(min_leaves=2), st.integers(0, 2**32))
def test_siblings_make_up_for_each_other(tree: Tree, seed: int) -> None:
    """Value differences and SPO's advantages have mean 0 over the children of each node."""
    rewards = rewards_for(tree, seed)
    for estimator in (ValueDifference(), SPO(), SPO("leaves")):
        advantages = estimator(tree, rewards)
        for children in tree.children():
            if len(children) > 1:
                assert advantages[children].mean() == pytest.approx(0, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=2, max_size=12))
def test_on_a_star_each_is_its_flat_form(rewards: list[float]) -> None:
    """The mean-centred reward, its standard score with the biased std, and twice the first."""
    tree, values = star(len(rewards)), np.array(rewards)
    centred = DrGRPO()(tree, values)
    assert ValueDifference()(tree, values)[1:] == pytest.approx(centred, abs=1e-12)
    assert TreeRL()(tree, values)[1:] == pytest.approx(2 * centred, abs=1e-12)
    biased = GRPO()(tree, values) * np.sqrt(len(rewards) / (len(rewards) - 1))
    assert SPO()(tree, values)[1:] == pytest.approx(biased, abs=1e-4)


def test_equal_siblings_have_exactly_nothing() -> None:
    """Rounding in their mean (.1 three times), over a std of as little and eps, gave 1e-11."""
    assert SPO()(star(3), np.full(3, 0.1)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_a_single_leaf_has_nothing_to_be_compared_with(estimator: SegmentEstimator) -> None:
    """One trajectory, in one segment or in a chain."""
    for tree in (star(1), tree_of({0: [1], 1: [2]})):
        assert estimator(tree, np.array([1.0])).tolist() == [0.0] * len(tree.nodes)


def test_an_impossible_eps_is_refused() -> None:
    with pytest.raises(ValueError, match="^eps: must be positive"):
        SPO(eps=0.0)


RELEASE = json.loads(Path(__file__).with_name("release_f055523.json").read_text())


def tree_of_paths(paths: list[str]) -> tuple[Tree, list[list[int]]]:
    """A tree whose trajectories have these names, and the nodes of each."""
    tree, nodes = Tree.from_prompt("uid", np.array([1]), seed=0), {"uid": ROOT}
    for path in paths:
        parts = path.split("#")
        for end in range(2, len(parts) + 1):
            name, parent = "#".join(parts[:end]), nodes["#".join(parts[: end - 1])]
            if name not in nodes:
                stop = StopReason.EOS if end == len(parts) else None
                nodes[name] = add_segment(tree, parent, [3, 4, len(nodes)], stop)
    return tree, [[nodes["#".join(path.split("#")[:end])] for end in range(2, path.count("#") + 2)] for path in paths]


@pytest.mark.parametrize("case", RELEASE, ids=range(len(RELEASE)))
def test_fading_differences_are_those_of_the_release(case: dict[str, Any]) -> None:
    """The functions of TreePO's release on random trees, with and without eta; recorded by record_release.py."""
    tree, nodes = tree_of_paths(case["paths"])
    places = [tree.leaves().index(own[-1]) for own in nodes]
    rewards = np.zeros(len(places))
    rewards[places] = case["rewards"]
    advantages = FadingDifference(case["eta"] if case["eta"] > 0 else 1.0)(tree, rewards)
    for place, own, expected in zip(places, nodes, case["advantages"], strict=True):
        np.testing.assert_allclose(advantages[own, place], expected, rtol=0, atol=1e-12)
    assert np.count_nonzero(advantages) <= sum(map(len, nodes))


@given(trees())
@settings(deadline=None)
def test_fading_differences_add_up_to_the_leaf(tree: Tree) -> None:
    """Without fading a trajectory's advantages add up to what eq. 6 gives its leaf; all rewards may be raised."""
    rewards = rewards_for(tree, 0)
    advantages = FadingDifference()(tree, rewards)
    groups = tree.groups()
    for i, leaf in enumerate(tree.leaves()):
        own = [groups[n] for n in tree.path(leaf)]
        expected = sum(len(g) * (rewards[i] - rewards[g].mean()) for g in own) / sum(map(len, own))
        assert advantages[:, i].sum() == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(
        FadingDifference(0.7)(tree, rewards + 3), FadingDifference(0.7)(tree, rewards), atol=1e-12
    )


def test_whitening_counts_each_node_of_each_trajectory() -> None:
    """A token counts once per trajectory with what it has there, and what lies on no path stays 0."""
    tree = complete_tree(2, 2)
    advantages = FadingDifference(0.5)(tree, np.array([1.0, 0.0, 0.0, 1.0]))
    counts = Advantages(advantages, per_node=True).token_counts(tree)
    (white,) = whiten([advantages], [counts])
    assert counts.sum() == sum(tree.response_len(leaf) for leaf in tree.leaves())
    assert (white * counts).sum() == pytest.approx(0, abs=1e-9)
    assert (white**2 * counts).sum() == pytest.approx(counts.sum() - 1, rel=1e-6)
    assert np.all(white[counts == 0] == 0)


@pytest.mark.parametrize("eta", [0.0, -1.0, 1.5])
def test_fading_is_a_share(eta: float) -> None:
    """It names the setting."""
    with pytest.raises(ValueError, match=r"eta: must be within \(0, 1\]"):
        FadingDifference(eta)

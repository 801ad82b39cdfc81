"""Credit over turns: rewards along the way, and turns that are compared as wholes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.test_observed import turns_tree
from tests.trees import add_segment, trees
from treepo.credit.base import Advantages, Estimator, sum_components, turn_tree, without_observed
from treepo.credit.group import DrGRPO
from treepo.credit.segment import SPO, SegmentEstimator, TreeRL, ValueDifference, turn_ends
from treepo.credit.subgroup import TreePO
from treepo.tree import ROOT, Node, StopReason, Tree

TURNS: list[Any] = [ValueDifference(level="turn"), SPO(level="turn"), TreeRL(level="turn"), TreePO(level="turn")]
seeds = st.integers(0, 2**32)


def rewarded_turns(rng: np.random.Generator) -> tuple[Tree, np.ndarray]:
    """A tree over turns with random rewards of turns, also at leaves, and their sums."""
    tree = turns_tree(rng)
    for i, node in enumerate(tree.nodes):
        if node.observed or (node.stop and rng.random() < 0.7):
            tree.nodes[i] = Node(**{**vars(node), "reward": float(rng.integers(-3, 4))})
    return tree, np.array([sum(tree.turn_rewards(leaf)) for leaf in tree.leaves()], float)


class ToGo:
    """Temporal differences by return-to-go: each reward counts where it is given, and nowhere else."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.children = tree, tree.children()
        self.groups = tree.groups()

    def value(self, node: int) -> float:
        """What is still to come after a node, on average over its children."""
        below = [i for i in self.children[node] if i in self.groups]
        return sum(self.gain(i) for i in below) / len(below) if below else 0.0

    def gain(self, node: int) -> float:
        """The reward at a node and what is to come after it."""
        return (self.tree.nodes[node].reward or 0.0) + self.value(node)


@given(seeds)
@settings(deadline=None, max_examples=12)
def test_value_differences_count_each_reward_where_it_is_given(seed: int) -> None:
    """Of sums over all turns, what was given before is in both values, so the difference is that of returns-to-go."""
    tree, rewards = rewarded_turns(np.random.default_rng(seed))
    seen, to_go = without_observed(tree), ToGo(tree)
    found = ValueDifference(join_chains=False)(seen, rewards)
    for node in to_go.groups.keys() - {ROOT}:
        if tree.nodes[node].observed:
            continue
        above = tree.nodes[node].parent
        assert found[node] == pytest.approx(to_go.gain(node) - to_go.value(above), abs=1e-9)
    # From the prompt down they add up to what the trajectory brought above the mean: nothing is counted twice.
    for leaf, reward in zip(tree.leaves(), rewards, strict=True):
        assert found[seen.path(leaf)].sum() == pytest.approx(reward - to_go.value(ROOT), abs=1e-9)
    # TreeRL has its own difference, and once more all those on the way to it.
    tree_rl = TreeRL("children", join_chains=False)(seen, rewards)
    for node, leaves in to_go.groups.items():
        if node != ROOT and not tree.nodes[node].observed:
            expected = (found[node] + found[seen.path(node)].sum()) / np.sqrt(len(leaves))
            assert tree_rl[node] == pytest.approx(expected, abs=1e-9)


@given(seeds)
@settings(deadline=None, max_examples=12)
def test_what_was_given_before_a_fork_changes_nothing_below_it(seed: int) -> None:
    """A reward of the first turn, which all trajectories share, is in no comparison."""
    rng = np.random.default_rng(seed)
    tree, rewards = rewarded_turns(rng)
    for estimator in (ValueDifference(), SPO(), TreePO(), *TURNS):
        before, after = (estimator(without_observed(tree), rewards + shift) for shift in (0.0, 3.0))
        np.testing.assert_allclose(after, before, atol=1e-6)


def one_per_turn(tree: Tree) -> tuple[Tree, dict[int, int]]:
    """The tree as if each turn were a node, by listing the ends of turns on each path; the old index of each node."""
    ends = {n.parent for n in tree.nodes if n.observed} | set(tree.leaves())
    merged, place = Tree.from_prompt("turns", np.array([1]), 0), {ROOT: ROOT}
    on_paths = {i for leaf in tree.leaves() for i in tree.path(leaf)}
    for i in sorted(ends & on_paths, key=lambda i: len(tree.path(i))):
        above = [j for j in tree.path(i)[:-1] if j in ends or j == ROOT][-1]
        place[i] = add_segment(merged, place[above], [i], tree.nodes[i].stop)
    return merged, place


@pytest.mark.parametrize("estimator", TURNS, ids=lambda e: type(e).__name__)
@given(seed=seeds)
@settings(deadline=None, max_examples=12)
def test_whole_turns_are_compared(estimator: Any, seed: int) -> None:
    """As in the tree that has one node per turn; all tokens of a turn have what its end has, in each trajectory."""
    rng = np.random.default_rng(seed)
    tree = without_observed(turns_tree(rng))
    rewards = rng.normal(size=len(tree.leaves()))
    merged, place = one_per_turn(tree)
    order = [merged.leaves().index(place[leaf]) for leaf in tree.leaves()]
    plain = type(estimator)(whiten=estimator.whiten)
    own = np.zeros(len(order))
    own[order] = rewards
    found, expected = estimator(tree, rewards), plain(merged, own)
    components = sum_components(estimator.components(tree, rewards))
    if not estimator.per_node:
        np.testing.assert_allclose(found, expected[order], atol=1e-9)
        np.testing.assert_allclose(components, found, atol=1e-9)
        return
    assert found.shape == (len(tree.nodes), len(rewards))
    np.testing.assert_allclose(components, Advantages(found, True).node_means(tree), atol=1e-9)
    for i, leaf in enumerate(tree.leaves()):
        turn: list[int] = []
        for node in tree.path(leaf)[1:]:
            turn.append(node)
            if node in place:
                assert found[turn, i] == pytest.approx(np.full(len(turn), expected[place[node]]), abs=1e-9)
                turn = []
        assert not turn


@given(trees(), seeds)
@settings(deadline=None, max_examples=12)
def test_a_single_turn_is_compared_with_the_prompt_alone(tree: Tree, seed: int) -> None:
    """Without an environment a turn is the whole trajectory: DrGRPO, for each of its tokens."""
    rewards = np.random.default_rng(seed).normal(size=len(tree.leaves()))
    expected = DrGRPO()(tree, rewards) if len(rewards) > 1 else np.zeros(1)
    np.testing.assert_allclose(TreePO(level="turn")(tree, rewards), expected, atol=1e-12)
    rows = Advantages(ValueDifference(level="turn")(tree, rewards), per_node=True).by_token(tree)
    for row, own in zip(rows, expected, strict=True):
        assert row == pytest.approx(own, abs=1e-12)


@pytest.mark.parametrize("estimator", [ValueDifference(), SPO(), TreeRL(), TreePO()], ids=lambda e: type(e).__name__)
@given(seed=seeds)
@settings(deadline=None, max_examples=12)
def test_turns_that_do_not_fork_inside_are_the_segments(estimator: Estimator, seed: int) -> None:
    """Where each turn is one node, both levels are the same."""
    rng = np.random.default_rng(seed)
    merged, _ = one_per_turn(turns_tree(rng))
    tree = Tree("t", [])
    place: dict[int, int] = {}
    for i, node in enumerate(merged.nodes):
        parent = place.get(node.parent, -1)
        if parent > ROOT:
            parent = reply_below(tree, parent)
        place[i] = len(tree.nodes)
        tree.nodes.append(Node(**{**vars(node), "parent": parent}))
    seen, rewards = without_observed(tree), rng.normal(size=len(tree.leaves()))
    one, other = (e(seen, rewards) for e in (estimator, type(estimator)(level="turn")))  # type: ignore[call-arg]
    if isinstance(estimator, SegmentEstimator):
        one, other = (Advantages(a, True).node_means(seen) for a in (one, other))
    np.testing.assert_allclose(one, other, atol=1e-9)


def reply_below(tree: Tree, node: int) -> int:
    """What the environment answers to a turn: the only child of its end."""
    found = [i for i, n in enumerate(tree.nodes) if n.parent == node and n.observed]
    if found:
        return found[0]
    return tree.add(Node(node, np.array([3], np.int32), None, 0, observed=True))


@pytest.mark.quick
def test_turns_by_hand() -> None:
    """A first turn that forks after a segment; one branch gets an answer and forks again, the other ends."""
    tree = Tree.from_prompt("p", np.array([7]), 0)
    stem = add_segment(tree, ROOT, [1, 2])
    asked = add_segment(tree, stem, [3])
    ended = add_segment(tree, stem, [4], StopReason.ENV_DONE)
    reply = tree.add(Node(asked, np.array([9], np.int32), None, 0, observed=True, reward=1.0))
    leaves = [add_segment(tree, reply, [i], StopReason.ENV_DONE) for i in (5, 6)]
    seen, rewards = without_observed(tree), np.array([0.0, 1.0, 3.0])
    assert tree.leaves() == [ended, *leaves]
    # The first turn ends at `asked`, worth 2, or `ended`, worth 0; the prompt is worth 1.
    assert turn_tree(seen).path(leaves[0]) == [ROOT, asked, leaves[0]]
    assert turn_ends(seen)[stem].tolist() == [ended, asked, asked]
    found = ValueDifference(level="turn")(seen, rewards)
    assert found[stem].tolist() == [-1, 1, 1]
    assert found[asked].tolist() == [0, 1, 1] and found[ended].tolist() == [-1, 0, 0]
    assert found[leaves[0]].tolist() == [0, -1, 0] and found[leaves[1]].tolist() == [0, 0, 1]
    # In segments the stem is an only child, which has what its children have on average: nothing.
    assert ValueDifference()(seen, rewards)[[stem, asked, ended]].tolist() == [0, 1, -1]

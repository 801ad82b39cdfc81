"""Metrics of groups and advantages by depth, against numbers by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import complete_tree, copy_of, relabelled, star, tree_of, trees
from treepo.credit.base import Advantages, Estimator
from treepo.credit.group import DrGRPO
from treepo.credit.segment import ValueDifference
from treepo.credit.subgroup import TreePO
from treepo.grow.shape import TreeShape
from treepo.learn.advantages import has_signal
from treepo.learn.metrics import advantage_metrics, depths, forks_by_depth, group_metrics
from treepo.tree import Tree

REWARDS = np.array([1.0, 1, -1, 1, -1, -1, -1, -1])
SHAPE = TreeShape(8, 20, segment_len=1)
LONGER = TreeShape(8, 20, segment_len=3)


def rewards_for(tree: Tree, seed: int) -> np.ndarray:
    """1 or 0 per leaf."""
    return np.random.default_rng(seed).integers(2, size=len(tree.leaves())).astype(float)


def credited(estimator: Estimator, tree: Tree, rewards: np.ndarray) -> Advantages:
    return Advantages(estimator(tree, rewards), estimator.per_node)


def test_the_groups_of_the_fixture() -> None:
    """Half of the groups agree at depth 1, three of four at depth 2; the second tree has its only group at depth 0."""
    metrics = group_metrics([complete_tree(3), star(2)], [REWARDS, np.array([1.0, 1.0])], SHAPE)
    assert metrics == pytest.approx(
        {
            "groups/depth_0/num": 1,
            "groups/depth_0/frac_reward_zero_std": 0.5,
            "groups/depth_0/reward_mean": (-0.25 + 1) / 2,
            "groups/depth_0/reward_std": 0.96825 / 2,
            "groups/depth_1/num": 1,
            "groups/depth_1/frac_reward_zero_std": 0.5,
            "groups/depth_1/reward_mean": -0.25,
            "groups/depth_1/reward_std": 0.86603 / 2,
            "groups/depth_2/num": 2,
            "groups/depth_2/frac_reward_zero_std": 0.75,
            "groups/depth_2/reward_mean": -0.25,
            "groups/depth_2/reward_std": 0.25,
        },
        abs=1e-5,
    )


def test_the_advantages_of_the_fixture() -> None:
    """Every last fork is at depth 2; of the eight squares only those of leaves 3 and 4 are within, 1 each."""
    advantages = Advantages(TreePO()(complete_tree(3), REWARDS))
    metrics = advantage_metrics([complete_tree(3), star(2)], [advantages, None], SHAPE)
    assert metrics == pytest.approx({"advantages/depth_2/std": 0.60667, "advantages/within": 0.67925}, abs=1e-5)


def test_leaves_count_at_their_last_fork() -> None:
    """Leaf 2 parts at the prompt, the two below node 1 after one segment; a tree of one leaf parts nowhere."""
    tree = tree_of({0: (1, 2), 1: (3, 4)})
    assert tree.leaves() == [2, 3, 4]
    metrics = advantage_metrics(
        [tree, tree, star(1)],
        [Advantages(np.array([3.0, 1, 2])), Advantages(np.array([1.0, 1, 2])), Advantages(np.ones(1))],
        SHAPE,
    )
    total = 3**2 + 1 + 4 + 1 + 1 + 4 - 10**2 / 6
    assert metrics == pytest.approx(
        {"advantages/depth_0/std": 1, "advantages/depth_1/std": 0.5, "advantages/within": 1 / total}
    )


def test_advantages_of_nodes_count_at_their_depth() -> None:
    """On the fixture the values' differences are +-.75, then +-.5 and 0, then +-1 and 0; all are among siblings."""
    tree = complete_tree(3)
    metrics = advantage_metrics([tree], [Advantages(ValueDifference()(tree, REWARDS), per_node=True)], SHAPE)
    expected = {"advantages/depth_1/std": 0.75, "advantages/depth_2/std": 0.125**0.5, "advantages/depth_3/std": 0.5}
    assert metrics == pytest.approx({**expected, "advantages/within": 1.0})


def test_a_chain_repeats_its_group_at_each_depth() -> None:
    """Two tokens in one node or in two: a group at depths 1 and 2 where a segment has one token, else only at 1."""
    tree, rewards = tree_of({0: (1, 2), 1: (3,), 3: (4, 5)}), np.array([1.0, 0, 0])
    names = {name for name in group_metrics([tree], [rewards], SHAPE) if name.endswith("/num")}
    assert names == {f"groups/depth_{k}/num" for k in (0, 1, 2)}
    metrics = group_metrics([tree], [rewards], LONGER)
    assert (metrics["groups/depth_0/num"], metrics["groups/depth_1/num"]) == (1, 1)


def test_depths_of_an_aligned_tree() -> None:
    """A prompt of one token and blocks of 4: the first segment has 4 tokens instead of 2, as for `forks/depth_*`."""
    tree = tree_of({0: (1, 2), 1: (3, 4)}, [4, 4, 2, 2])
    aligned = TreeShape(4, 4, segment_len=2, align=4)
    assert aligned.for_prompt(1, 2).first_len == 4
    assert depths(tree, aligned).tolist() == [0, 1, 1, 2, 2]
    assert depths(tree, TreeShape(4, 4, segment_len=2)).tolist() == [0, 2, 2, 3, 3]
    assert {f"groups/depth_{k}/num" for k in forks_by_depth([tree], aligned)} <= group_metrics(
        [tree], [np.zeros(3)], aligned
    ).keys()


@settings(max_examples=100, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4), st.integers(0, 2**32))
def test_what_holds_for_every_step(grown: list[Tree], seed: int) -> None:
    """Shares are within 0..1; the group at depth 0 is the problem's own; where a tree forks is a group."""
    rewards = [rewards_for(tree, seed + i) for i, tree in enumerate(grown)]
    metrics = group_metrics(grown, rewards, LONGER)
    assert all(0 <= v <= 1 for name, v in metrics.items() if name.endswith(("frac_reward_zero_std", "reward_mean")))
    groups = [r for r in rewards if len(r) > 1]
    assert metrics.get("groups/depth_0/num", 0) == len(groups) / len(grown)
    if groups:
        assert metrics["groups/depth_0/frac_reward_zero_std"] == pytest.approx(
            np.mean([not has_signal(r) for r in groups])
        )
    assert all(metrics[f"groups/depth_{k}/num"] > 0 for k in forks_by_depth(grown, LONGER))
    for estimator in (TreePO(), ValueDifference()):
        spread = advantage_metrics(
            grown, [credited(estimator, t, r) for t, r in zip(grown, rewards, strict=True)], LONGER
        )
        assert 0 <= spread.get("advantages/within", 0) <= 1
        assert all(value >= 0 for value in spread.values())


@settings(max_examples=100, deadline=None)
@given(trees(min_leaves=2), st.integers(0, 2**32))
def test_cuts_at_which_nothing_forks_and_numbering_change_nothing(tree: Tree, seed: int) -> None:
    """Every segment cut after its first token."""
    rewards = rewards_for(tree, seed)
    cut = copy_of(tree)
    for index in range(1, len(tree.nodes)):
        # The first token of a node has to be of its last segment: otherwise the cut is a border of a chain.
        length = len(tree.nodes[index].token_ids)
        if length > 1 and len({LONGER.num_segments(tree.response_len(index) - i) for i in range(length)}) == 1:
            cut.split(index, 1)
    other, old = relabelled(tree, np.random.default_rng(seed))
    for estimator in (TreePO(distinct=True), DrGRPO()):
        advantages = credited(estimator, tree, rewards)
        expected = group_metrics([tree], [rewards], LONGER) | advantage_metrics([tree], [advantages], LONGER)
        after_cut = group_metrics([cut], [rewards], LONGER) | advantage_metrics([cut], [advantages], LONGER)
        moved = group_metrics([other], [rewards[old]], LONGER)
        assert after_cut == pytest.approx(expected)
        assert moved | advantage_metrics([other], [Advantages(advantages.values[old])], LONGER) == pytest.approx(
            expected
        )

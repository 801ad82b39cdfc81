"""Metrics of a step's trees, against counts by hand."""

import numpy as np
import pytest

from tests.trees import tree_of
from treepo.grow.shape import TreeShape
from treepo.learn.metrics import forks_by_depth, problem_metrics, reward_metrics, tree_metrics
from treepo.tree import ROOT, Node, StopReason, Tree

SHAPE = TreeShape(4, 3, segment_len=2)


def small_tree():
    r"""Root forks in two; node 1 forks in two leaves, node 2 goes on to one leaf: segments of two tokens."""
    tree = tree_of({0: (1, 2), 1: (3, 4), 2: (5,)}, 2)
    tree.num_fallbacks = 3
    return tree


def test_forks_are_counted_at_the_depth_in_segments() -> None:
    """Also below a split, where there are more nodes than segments: a cut inside a segment counts as one."""
    tree = small_tree()
    assert forks_by_depth([tree], SHAPE) == {0: 1, 1: 1}
    assert forks_by_depth([tree, tree_of({0: (1, 2, 3)}, 2)], SHAPE) == {0: 3, 1: 1}
    upper = tree.split(2, 1)
    tree.add(type(tree.nodes[5])(upper, np.array([9], np.int32), np.zeros(1, np.float32), 0, tree.nodes[5].stop))
    assert forks_by_depth([tree], SHAPE) == {0: 1, 1: 2}


def test_the_metrics_of_a_tree() -> None:
    """3 trajectories of 4 tokens; 5 nodes of 2 tokens each, none of which begin alike."""
    tree = small_tree()
    metrics = tree_metrics([tree], SHAPE)
    assert metrics["tokens/decoded"] == metrics["tokens/distinct"] == 10
    assert metrics["tokens/total"] == 12
    assert metrics["tokens/sharing"] == pytest.approx(1.2)
    assert (metrics["leaves/mean"], metrics["fallbacks/mean"]) == (3, 3)
    assert (metrics["forks/depth_0"], metrics["forks/depth_1"]) == (1, 1)
    assert (
        metrics["completions/length/min"]
        == metrics["completions/length/mean"]
        == metrics["completions/length/max"]
        == 4
    )
    logprobs = np.concatenate([tree.logprobs(i) for i in range(1, 6)])
    assert metrics["entropy"] == pytest.approx(-logprobs.mean())
    assert metrics["stop/eos"] == 1.0
    assert metrics["stop/answer"] == metrics["completions/clipped_ratio"] == 0.0


def test_clipped_completions_ended_at_a_limit() -> None:
    """At that of the response or at that of the tree's depth."""
    tree = Tree.from_prompt("p", np.array([1]), 0)
    for stop in (StopReason.LENGTH, StopReason.DEPTH, StopReason.EOS, StopReason.REPETITION):
        tree.add(Node(ROOT, np.array([2]), np.zeros(1, np.float32), 0, stop))
    assert tree_metrics([tree], SHAPE)["completions/clipped_ratio"] == 0.5


def test_rewards_over_leaves_and_over_the_policy() -> None:
    """Node 1 forks in two leaves, node 2 goes on to one: that one weighs as much as the other two."""
    rewards = [np.array([1.0, 1.0, 0.0]), np.array([0.0])]
    metrics = reward_metrics([small_tree(), tree_of({0: (1,)})], rewards)
    assert metrics == {"reward/mean": pytest.approx(2 / 4), "reward/unbiased": pytest.approx((1 / 2 + 0) / 2)}


def test_what_became_of_the_problems() -> None:
    """Two agree on right, one on wrong; of three with a signal two were trained on."""
    mixed = np.array([0.0, 1.0])
    rewards = [np.ones(2), mixed, np.zeros(2), mixed, np.ones(2), mixed]
    metrics = problem_metrics(rewards, rewards, num_rounds=2, num_trained=2)
    assert metrics == {
        "problems/rounds": 2,
        "problems/grown": 6,
        "problems/solved": 2,
        "problems/failed": 1,
        "problems/trained": 2,
        "problems/unused": 1,
    }

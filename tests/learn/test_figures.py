"""Figures of a step's trees, against counts by hand."""

import numpy as np
import pytest

from tests.trees import tree_of
from treepo.grow.shape import TreeShape
from treepo.learn.metrics import forks_by_depth, problem_metrics, reward_metrics, tree_metrics

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


def test_the_figures_of_a_tree() -> None:
    """3 trajectories of 4 tokens; 5 nodes of 2 tokens each, none of which begin alike."""
    tree = small_tree()
    figures = tree_metrics([tree], SHAPE)
    assert figures["tokens/decoded"] == figures["tokens/distinct"] == 10
    assert figures["tokens/total"] == 12
    assert figures["tokens/sharing"] == pytest.approx(1.2)
    assert (figures["leaves/mean"], figures["fallbacks/mean"]) == (3, 3)
    assert (figures["forks/depth_0"], figures["forks/depth_1"]) == (1, 1)
    assert (
        figures["completions/length/min"]
        == figures["completions/length/mean"]
        == figures["completions/length/max"]
        == 4
    )
    logprobs = np.concatenate([tree.logprobs(i) for i in range(1, 6)])
    assert figures["entropy"] == pytest.approx(-logprobs.mean())
    assert figures["stop/eos"] == 1.0
    assert figures["stop/answer"] == 0.0


def test_rewards_over_leaves_and_over_the_policy() -> None:
    """Node 1 forks in two leaves, node 2 goes on to one: that one weighs as much as the other two."""
    rewards = [np.array([1.0, 1.0, 0.0]), np.array([0.0])]
    figures = reward_metrics([small_tree(), tree_of({0: (1,)})], rewards)
    assert figures == {"reward/mean": pytest.approx(2 / 4), "reward/unbiased": pytest.approx((1 / 2 + 0) / 2)}


def test_what_became_of_the_problems() -> None:
    """Two agree on right, one on wrong; of three with a signal two were trained on."""
    mixed = np.array([0.0, 1.0])
    rewards = [np.ones(2), mixed, np.zeros(2), mixed, np.ones(2), mixed]
    figures = problem_metrics(rewards, rewards, num_rounds=2, num_trained=2)
    assert figures == {
        "problems/rounds": 2,
        "problems/grown": 6,
        "problems/solved": 2,
        "problems/failed": 1,
        "problems/trained": 2,
        "problems/unused": 1,
    }

"""What an environment gave, as a part of the reward."""

from dataclasses import replace

import numpy as np
import pytest

from tests.trees import add_segment
from treepo.data.problem import Outcome, Problem, Verdict
from treepo.learn.advantages import rewarded_part
from treepo.tree import ROOT, Node, StopReason, Tree
from treepo.verify import FinalAnswer
from treepo.verify.rewards import ShapedReward, VerifiedTree, component_metrics, score_trees

pytestmark = pytest.mark.quick


def verified(tree: Tree) -> VerifiedTree:
    paths = tree.trajectories()
    verdicts = [Verdict(0.0, Outcome.UNVERIFIED, None)] * len(paths)
    return VerifiedTree(Problem("p", "", (0,), ""), tree, paths, [""] * len(paths), verdicts, FinalAnswer())


def two_turns() -> Tree:
    """A turn with the reward 0.5, after which one path gets 1 and another one loses its environment."""
    tree = Tree.from_prompt("p", np.zeros(1), 0)
    first = add_segment(tree, ROOT, [1, 2])
    reply = tree.add(Node(first, np.array([3], np.int32), None, 0, observed=True, reward=0.5))
    done, _ = add_segment(tree, reply, [4], StopReason.ENV_DONE), add_segment(tree, reply, [5], StopReason.ENV_ERROR)
    tree.nodes[done] = replace(tree.nodes[done], reward=1.0)
    return tree


def test_rewards_of_turns_add_up_and_lost_paths_have_none() -> None:
    """A path whose environment failed is not trained on: nobody knows what it is worth."""
    tree = two_turns()
    (scored,) = score_trees(ShapedReward(correct=0.0, environment=2.0), [verified(tree)], 8)
    assert scored.components["environment"].tolist() == [3.0, 1.0]
    assert scored.rewards[0] == 3.0 and np.isnan(scored.rewards[1])
    assert component_metrics([scored]) == {"reward/environment": 3.0}, "they add up to reward/mean"
    part, rewards = rewarded_part(tree, scored.rewards)
    assert rewards.tolist() == [3.0] and len(part.leaves()) == 1 and part.has_observed


def test_a_tree_in_which_no_turn_ends_has_no_reward() -> None:
    """A model that never writes EOS was told that there is no environment, and training ended."""
    tree = Tree.from_prompt("p", np.zeros(1), 0)
    add_segment(tree, ROOT, [1], StopReason.LENGTH)
    (scored,) = score_trees(ShapedReward(correct=0.0, environment=1.0), [verified(tree)], 8)
    assert scored.rewards.tolist() == [0.0]

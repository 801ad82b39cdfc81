"""Metrics of trees over several turns, against counts by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tests.trees import add_segment
from treepo.grow.environment_calls import EnvironmentCounters
from treepo.learn.turn_metrics import turn_metrics
from treepo.tree import ROOT, Node, StopReason, Tree

pytestmark = pytest.mark.quick


def test_turns_are_counted_per_trajectory_and_what_was_observed_once() -> None:
    """A first turn that two paths share, a reply of three tokens, and a path that was cut off in its first turn."""
    tree = Tree.from_prompt("p", np.zeros(1), 0)
    reply = tree.add(Node(add_segment(tree, ROOT, [1, 2]), np.arange(3, dtype=np.int32), None, 0, observed=True))
    for parent, stop in ((reply, StopReason.ENV_DONE), (reply, StopReason.ENV_TIMEOUT), (ROOT, StopReason.LENGTH)):
        add_segment(tree, parent, [4], stop)
    one_turn = Tree.from_prompt("q", np.zeros(1), 0)
    add_segment(one_turn, ROOT, [1], StopReason.ENV_DONE)
    assert turn_metrics([tree, one_turn]) == {
        "turns/mean": 6 / 4,
        "turns/max": 2,
        "tokens/observed": 3,
        "environment/lost": 1 / 4,
    }


def test_counters_of_a_step_are_differences() -> None:
    before = EnvironmentCounters(3, 1, 0.5, 0.25)
    after = before + EnvironmentCounters(2, 0, 1.0, 0.5)
    assert after - before == replace(EnvironmentCounters(), num_calls=2, call_s=1.0, wait_s=0.5)
    assert after.metrics()["environment/failed_calls"] == 1

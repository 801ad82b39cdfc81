"""Estimators over one flat group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import complete_tree, random_tree, relabelled, star
from treepo.credit import GRPO, whiten

REWARDS = np.array([1.0, 1, -1, 1, -1, -1, -1, -1])
reward_lists = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0]), min_size=2, max_size=12)


def test_grpo_on_the_fixture() -> None:
    """Unbiased standard deviation; the shape of the tree plays no part."""
    expected = [1.2076, 1.2076, -0.7246, 1.2076, *[-0.7246] * 4]
    assert GRPO()(complete_tree(3), REWARDS) == pytest.approx(expected, abs=5e-5)
    assert GRPO()(star(8), REWARDS) == pytest.approx(expected, abs=5e-5)


def test_reinforce_baseline_is_the_centred_reward_whitened() -> None:
    """The last row of the fixture, from the parts that exist: 4 tokens per leaf."""
    [advantages] = whiten([REWARDS - REWARDS.mean()], [np.full(8, 4)])
    assert advantages == pytest.approx([1.2707, 1.2707, -0.7624, 1.2707, *[-0.7624] * 4], abs=5e-5)


def test_a_group_of_one_leaf_keeps_its_reward() -> None:
    """Mean 0 and std 1, as the authors' release has it; finite, unlike an unbiased std of one value."""
    assert GRPO()(star(1), np.array([1.0])) == pytest.approx([1.0], abs=1e-5)
    assert GRPO()(star(1), np.array([-1.0])) == pytest.approx([-1.0], abs=1e-5)


def test_rewards_that_agree_carry_no_signal() -> None:
    """Zero, not nan."""
    assert GRPO()(star(4), np.ones(4)).tolist() == [0, 0, 0, 0]


@settings(max_examples=200, deadline=None)
@given(reward_lists, st.floats(-10, 10), st.floats(0.5, 5), st.integers(0, 2**32))
def test_grpo_is_a_standard_score(rewards: list[float], shift: float, scale: float, seed: int) -> None:
    """Mean 0, unbiased std 1, no matter the unit or origin of the rewards or the order of the leaves."""
    values = np.array(rewards)
    tree = star(len(values))
    advantages = GRPO()(tree, values)
    assert advantages.mean() == pytest.approx(0, abs=1e-9)
    if np.ptp(values) > 0:
        assert advantages.std(ddof=1) == pytest.approx(1, abs=1e-4)
        assert GRPO()(tree, values * scale + shift) == pytest.approx(advantages, abs=1e-4)
    rng = np.random.default_rng(seed)
    other, old = relabelled(random_tree(rng, len(values)), rng)
    assert GRPO()(other, values[old]) == pytest.approx(advantages[old])

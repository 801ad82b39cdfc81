"""Estimators over one flat group, against the paper's numbers, verl's own functions and each other."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import complete_tree, random_tree, relabelled, star
from treepo.credit.base import Estimator, whiten
from treepo.credit.group import GRPO, RLOO, DrGRPO, MaxRL, REINFORCEPlusPlus
from treepo.credit.subgroup import TreePO

pytestmark = pytest.mark.quick

REWARDS = np.array([1.0, 1, -1, 1, -1, -1, -1, -1])
reward_lists = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0]), min_size=2, max_size=12)
VERL = json.loads(Path(__file__).with_name("verl_0.9.1.json").read_text())
"""Groups with lengths, and advantages that functions of verl 0.9.1 gave for them; see record_verl.py."""


def test_grpo_on_the_fixture() -> None:
    """Unbiased standard deviation; the shape of the tree plays no part."""
    expected = [1.2076, 1.2076, -0.7246, 1.2076, *[-0.7246] * 4]
    assert GRPO()(complete_tree(3), REWARDS) == pytest.approx(expected, abs=5e-5)
    assert GRPO()(star(8), REWARDS) == pytest.approx(expected, abs=5e-5)


def test_reinforce_plus_plus_on_the_fixture() -> None:
    """The last row of the fixture: whitened over 4 tokens per leaf."""
    estimator = REINFORCEPlusPlus()
    assert estimator.whiten
    [advantages] = whiten([estimator(complete_tree(3), REWARDS)], [np.full(8, 4)])
    assert advantages == pytest.approx([1.2707, 1.2707, -0.7624, 1.2707, *[-0.7624] * 4], abs=5e-5)


@pytest.mark.parametrize("estimator", [GRPO(), DrGRPO(), RLOO(), REINFORCEPlusPlus()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("batch", VERL, ids=range(len(VERL)))
def test_equals_verl(batch: dict[str, list], estimator: Estimator) -> None:
    """On groups of one to eight trajectories of several lengths."""
    rewards, lengths = ([np.array(own) for own in batch[name]] for name in ("rewards", "lengths"))
    advantages = [estimator(star(len(r), n.tolist()), r) for r, n in zip(rewards, lengths, strict=True)]
    if estimator.whiten:
        advantages = whiten(advantages, lengths)
    assert np.concatenate(advantages) == pytest.approx(batch[type(estimator).__name__], rel=1e-5, abs=1e-7)


def test_each_by_hand() -> None:
    """Rewards 1, 0, 0, 1 ,0: two of five are right."""
    tree, rewards = star(5), np.array([1.0, 0, 0, 1, 0])
    assert DrGRPO()(tree, rewards) == pytest.approx([0.6, -0.4, -0.4, 0.6, -0.4])
    assert RLOO()(tree, rewards) == pytest.approx([0.75, -0.5, -0.5, 0.75, -0.5])
    assert MaxRL()(tree, rewards) == pytest.approx([1.5, -1, -1, 1.5, -1])


@settings(max_examples=100, deadline=None)
@given(reward_lists)
def test_leaving_one_out_by_its_definition(rewards: list[float]) -> None:
    """R_i minus the mean of the others, which is G / (G - 1) times the centred reward."""
    expected = [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    tree, values = star(len(rewards)), np.array(rewards)
    assert RLOO()(tree, values) == pytest.approx(expected, abs=1e-12)
    factor = len(rewards) / (len(rewards) - 1)
    assert RLOO()(tree, values) == pytest.approx(factor * DrGRPO()(tree, values), abs=1e-12)


def test_maxrl_weighs_successes_by_how_many_there_are() -> None:
    """The score of each success counts 1 / K, less 1 / G for every leaf, times G; of no success nothing is learnt."""
    for num_right in range(1, 7):
        rewards = np.repeat([1.0, 0.0], [num_right, 6 - num_right])
        assert MaxRL()(star(6), rewards) / 6 == pytest.approx(rewards / num_right - 1 / 6)
    assert MaxRL()(star(6), np.zeros(6)).tolist() == [0.0] * 6


@pytest.mark.parametrize(("num_leaves", "factor"), [(2, 1.0), (3, 1.7), (5, 2.533)])
def test_the_expected_update_of_maxrl(num_leaves: int, factor: float) -> None:
    """sum_{k=1}^{G-1} (1 - p)^(k-1) grad p, over all groups of G; the docs promised grad log p, here 3.333 grad p."""
    p, found = 0.3, 0.0
    for outcomes in product([1.0, 0.0], repeat=num_leaves):
        rewards = np.array(outcomes)
        scores = rewards - p
        found += np.prod(np.where(rewards == 1, p, 1 - p)) * (MaxRL()(star(num_leaves), rewards) @ scores) / num_leaves
    orders = sum((1 - p) ** (k - 1) for k in range(1, num_leaves))
    assert found / (p * (1 - p)) == pytest.approx(orders, abs=1e-12)
    assert orders == pytest.approx(factor, abs=1e-3)


def test_maxrl_refuses_negative_rewards() -> None:
    """Their mean is no success rate, however close to 0 they are; what is barely positive is one."""
    with pytest.raises(ValueError, match="^needs rewards that are not negative, got -1.0"):
        MaxRL()(star(8), REWARDS)
    with pytest.raises(ValueError, match="got -1e-09"):
        MaxRL()(star(2), np.array([1.0, -1e-9]))
    assert MaxRL()(star(2), np.array([2e-9, 0.0])) == pytest.approx([1.0, -1.0])


def test_an_eps_of_0_is_refused() -> None:
    """Rewards that agree would give 0 / 0."""
    for eps in (0.0, -1e-6):
        with pytest.raises(ValueError, match=f"^eps: must be positive, got {eps}"):
            GRPO(eps=eps)


def test_whitened_on_a_star_treepo_is_reinforce_plus_plus() -> None:
    """By default, that is; raw it is DrGRPO."""
    trees, rewards = [star(4), star(3, 5)], [np.array([1.0, 0, 0, 1]), np.array([0.0, 1, 0])]
    lengths = [np.full(4, 3), np.full(3, 5)]
    raw, white = [], []
    for estimator in (TreePO(), REINFORCEPlusPlus(), DrGRPO()):
        raw.append([estimator(t, r) for t, r in zip(trees, rewards, strict=True)])
        white.append(whiten(raw[-1], lengths) if estimator.whiten else raw[-1])
    assert np.concatenate(raw[0]) == pytest.approx(np.concatenate(raw[2]))
    assert np.concatenate(white[0]) == pytest.approx(np.concatenate(white[1]))
    assert abs(np.concatenate(white[0]) - np.concatenate(white[2])).max() > 0.1


@pytest.mark.parametrize("estimator", [GRPO(), DrGRPO(), RLOO(), REINFORCEPlusPlus()])
def test_a_group_of_one_leaf_keeps_its_reward(estimator: Estimator) -> None:
    """Mean 0 and std 1, as verl has it; finite, unlike an unbiased std of one value."""
    assert estimator(star(1), np.array([1.0])) == pytest.approx([1.0], abs=1e-5)
    assert estimator(star(1), np.array([-1.0])) == pytest.approx([-1.0], abs=1e-5)


@pytest.mark.parametrize("estimator", [GRPO(), DrGRPO(), RLOO(), REINFORCEPlusPlus(), MaxRL()])
def test_rewards_that_agree_carry_no_signal(estimator: Estimator) -> None:
    """Zero, not nan."""
    assert estimator(star(4), np.ones(4)).tolist() == [0, 0, 0, 0]
    assert estimator(star(4), np.zeros(4)).tolist() == [0, 0, 0, 0]


@settings(max_examples=200, deadline=None)
@given(reward_lists, st.floats(-10, 10), st.floats(0.5, 5), st.integers(0, 2**32))
def test_grpo_is_a_standard_score(rewards: list[float], shift: float, scale: float, seed: int) -> None:
    """Mean 0, unbiased std 1, no matter the unit or origin of the rewards or the order of the leaves."""
    values = np.array(rewards)
    tree = star(len(values))
    advantages = GRPO()(tree, values)
    if np.ptp(values) > 0:
        assert advantages.std(ddof=1) == pytest.approx(1, abs=1e-4)
        assert GRPO()(tree, values * scale + shift) == pytest.approx(advantages, abs=1e-4)


@pytest.mark.parametrize("estimator", [GRPO(), DrGRPO(), RLOO(), REINFORCEPlusPlus(), MaxRL()])
@settings(max_examples=100, deadline=None)
@given(rewards=reward_lists, shift=st.floats(-10, 10), seed=st.integers(0, 2**32))
def test_what_all_of_them_promise(estimator: Estimator, rewards: list[float], shift: float, seed: int) -> None:
    """Mean 0; the same for each leaf in whatever order and shape; and, but for MaxRL, whatever all rewards have in
    common."""
    values = np.array(rewards)
    rng = np.random.default_rng(seed)
    if isinstance(estimator, MaxRL):
        values = np.abs(values)
    else:
        shifted = estimator(star(len(values)), values + shift)
        assert shifted == pytest.approx(estimator(star(len(values)), values), abs=1e-5)
    advantages = estimator(star(len(values)), values)
    assert advantages.mean() == pytest.approx(0, abs=1e-9)
    other, old = relabelled(random_tree(rng, len(values)), rng)
    assert estimator(other, values[old]) == pytest.approx(advantages[old])

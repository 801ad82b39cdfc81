"""Estimators that begin with GRPO's advantage: against the release, numbers by hand, and what must not change them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import add_segment, complete_tree, copy_of, star, trees
from treepo.credit.base import Advantages
from treepo.credit.group import GRPO
from treepo.credit.prefix import TEMPO, TreeAdv
from treepo.learn.advantages import in_whole_tree, rewarded_part
from treepo.tree import ROOT, StopReason, Tree

RELEASE = json.loads(Path(__file__).with_name("tempo_0a1c273.json").read_text())


def rewards_for(tree: Tree, seed: int) -> np.ndarray:
    """A random reward per leaf, with ties."""
    return np.random.default_rng(seed).choice([0.0, 0.25, 1.0], len(tree.leaves()))


def tempo(tree: Tree, rewards: np.ndarray) -> list[np.ndarray]:
    """TEMPO's advantages, a row per trajectory."""
    return Advantages.by(TEMPO(), TEMPO()(tree, rewards)).by_token(tree)


def test_tempo_is_that_of_its_release() -> None:
    """Its own function on groups of 2 to 8 responses, recorded by record_tempo.py; it computes in single precision."""
    for case in RELEASE:
        tree = Tree.from_prompt("p", np.array([7]), 0)
        for ids in case["responses"]:
            add_segment(tree, ROOT, ids, StopReason.EOS)
        for own, expected in zip(tempo(tree, np.array(case["rewards"])), case["advantages"], strict=True):
            np.testing.assert_allclose(own, expected, rtol=0, atol=2e-5)


def test_tempo_by_hand() -> None:
    """Four responses with rewards 1, 0, 0, 1: mean .5, std 1/sqrt(3). Behind "5" the mean is 1/3, behind "5 6" .5."""
    tree = Tree.from_prompt("p", np.array([7]), 0)
    stem = add_segment(tree, ROOT, [5])
    for ids in ([6, 1, 1], [6, 2]):
        add_segment(tree, stem, ids, StopReason.EOS)
    add_segment(tree, ROOT, [5, 8], StopReason.EOS)
    add_segment(tree, ROOT, [9], StopReason.EOS)
    expected: list[list[float]] = [
        [0.5 + 1 / 3 - 1 / 2, 0.5 + 1 / 2 - 1 / 3, 0.5 + 1 - 1 / 2, 0.5],
        [-0.5 + 1 / 3 - 1 / 2, -0.5 + 1 / 2 - 1 / 3, -0.5 + 0 - 1 / 2],
        [-0.5 + 1 / 3 - 1 / 2, -0.5 + 0 - 1 / 3],
        [0.5 + 1 - 1 / 2],
    ]
    weight = 1 / (1 / 3**0.5 + 1e-6)
    found = tempo(tree, np.array([1.0, 0, 0, 1]))
    for own, row in zip(found, expected, strict=True):
        assert own == pytest.approx(np.array(row) * weight)


@given(trees(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=12)
def test_tempo_depends_on_tokens_and_not_on_nodes(tree: Tree, seed: int) -> None:
    """Nodes cut in two, or a star of the same responses: the same; added up, a trajectory has GRPO's for each token and
    once what its reward is above the mean."""
    rewards, flat, cut = rewards_for(tree, seed), Tree.from_prompt("p", tree.prompt_ids, 0), copy_of(tree)
    for trajectory in tree.trajectories():
        add_segment(flat, ROOT, trajectory.token_ids, StopReason.EOS)
    for i, node in enumerate(tree.nodes):
        if i != ROOT and len(node.token_ids) > 1:
            cut.split(i, 1)
    found, grpo = tempo(tree, rewards), GRPO()(tree, rewards)
    for other in (flat, cut):
        np.testing.assert_allclose(np.concatenate(tempo(other, rewards)), np.concatenate(found), atol=1e-9)
    ids = [tuple(t.token_ids.tolist()) for t in tree.trajectories()]
    for own, whole, row in zip(found, grpo, ids, strict=True):
        alike = [i for i, other in enumerate(ids) if other[: len(row)] == row]
        std = rewards.std(ddof=1) if len(rewards) > 1 else 1.0
        gain = (rewards[alike].mean() - rewards.mean()) / (std + 1e-6)
        assert own.sum() == pytest.approx(len(row) * whole + gain, abs=1e-9)


@given(trees(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=12)
def test_shapes_of_values_of_tokens(tree: Tree, seed: int) -> None:
    """Rows, means of nodes and parts of trees are those of the same values written as one per node and leaf."""
    values = np.random.default_rng(seed).normal(size=(len(tree.nodes), len(tree.leaves())))
    pairs = Advantages(values, per_node=True)
    rows = pairs.by_token(tree)
    tokens = Advantages(np.concatenate(rows), per_node=True, per_token=True)
    tokens.check_shape(tree)
    assert tokens.token_counts(tree).sum() == pairs.token_counts(tree).sum()
    np.testing.assert_allclose(tokens.node_means(tree)[1:], pairs.node_means(tree)[1:], atol=1e-12)
    assert all(map(np.array_equal, tokens.by_token(tree), rows))
    rewards = np.where(np.arange(len(tree.leaves())) % 2, np.nan, 1.0)
    part, _ = rewarded_part(tree, rewards)
    kept = Advantages(np.concatenate(rows[::2]), per_node=True, per_token=True)
    kept.check_shape(part)
    whole = in_whole_tree(kept, tree, rewards).by_token(tree)
    for i, (own, row) in enumerate(zip(whole, rows, strict=True)):
        np.testing.assert_array_equal(own, row * (i % 2 == 0))
    with pytest.raises(ValueError, match="advantages of shape"):
        Advantages(tokens.values[1:], per_node=True, per_token=True).check_shape(tree)


def test_tree_adv_by_hand() -> None:
    """Rewards 1, 1, 0, 1: mean .75, std .5; a node has the mean of its leaves."""
    advantages = TreeAdv(eps=1e-12)(complete_tree(2), np.array([1.0, 1, 0, 1]))
    assert advantages == pytest.approx([0, 0.5, -0.5, 0.5, 0.5, -1.5, 0.5])


@given(trees(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=12)
def test_tree_adv_adds_up_to_grpo(tree: Tree, seed: int) -> None:
    """Over the trajectories through a node: where nothing is clipped and tokens weigh alike, an update is the same."""
    rewards = rewards_for(tree, seed)
    advantages, grpo = TreeAdv()(tree, rewards), GRPO()(tree, rewards)
    for node, leaves in tree.groups().items():
        if node != ROOT:
            assert advantages[node] * len(leaves) == pytest.approx(grpo[leaves].sum(), abs=1e-9)


@pytest.mark.parametrize("estimator", [TEMPO(), TreeAdv()], ids=repr)
def test_a_star_without_common_tokens(estimator: Any) -> None:
    """TreeAdv is GRPO; TEMPO has it twice in the first token, where all part."""
    tree, rewards = Tree.from_prompt("p", np.array([7]), 0), np.array([1.0, 0, 0])
    for first in (1, 2, 3):
        add_segment(tree, ROOT, [first, 0, 0], StopReason.EOS)
    grpo = GRPO()(tree, rewards)
    for row, own in zip(Advantages.by(estimator, estimator(tree, rewards)).by_token(tree), grpo, strict=True):
        assert row == pytest.approx(own * np.array([2 if estimator == TEMPO() else 1, 1, 1]))


@pytest.mark.parametrize("make", [TEMPO, TreeAdv])
def test_their_edges(make: Any) -> None:
    with pytest.raises(ValueError, match="^eps: must be positive"):
        make(eps=0.0)
    assert make()(star(3), np.full(3, 0.1)) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(make()(star(1), np.ones(1))).all()

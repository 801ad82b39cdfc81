"""Estimators whose leaves count as in the policy's own distribution: exact expectations, and what they equal."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.credit.exact import TinyPolicy, all_trees, value_of, values_of
from tests.credit.test_leaf_weights import BRANCHINGS, SMALL, UP_TO_THREE, rules, score_of
from tests.trees import add_segment, complete_tree, relabelled, star, tree_of, trees
from treepo.credit.group import GRPO, RLOO, DrGRPO, REINFORCEPlusPlus
from treepo.credit.leaf_weights import group_means, leaf_weights
from treepo.credit.subgroup import TreePO
from treepo.grow.fallback import Backtrack, NoFallback
from treepo.tree import ROOT, StopReason, Tree

FLAT = (GRPO(), DrGRPO(), REINFORCEPlusPlus())
SUBGROUP = (TreePO(), TreePO(weight="size"), TreePO(reject_agreeing=True), TreePO(with_root=False, divide_by_std=True))
ALL = (*FLAT, RLOO(), *SUBGROUP)
POLICY = TinyPolicy(2)
TARGET = POLICY.mean(lambda r: value_of(r) * score_of(POLICY, list(r), 0), SMALL.max_response_tokens)
"""The policy gradient, of the mean of `value_of` by the logit of EOS."""


def unbiased(estimator: Any) -> Any:
    """The same with the other choice, which cannot be whitened."""
    return replace(estimator, leaves="unbiased", whiten=False)


def scores_of(tree: Tree) -> np.ndarray:
    """Of each whole trajectory."""
    return np.array([score_of(POLICY, tree.ids(leaf)[1:].tolist(), 0) for leaf in tree.leaves()])


def kept_of_nodes(tree: Tree, rewards: np.ndarray) -> float:
    """sum over nodes of w (1 - w) score R, with R the weighted mean below: what a mean with oneself in it leaves."""
    weights, means, total = leaf_weights(tree), group_means(tree, rewards), 0.0
    for index, leaves in tree.groups().items():
        if index != ROOT:
            response, own = tree.ids(index)[1:].tolist(), weights[leaves].sum()
            score = score_of(POLICY, response, len(response) - len(tree.nodes[index].token_ids))
            total += own * (1 - own) * score * means[index]
    return total


@pytest.mark.parametrize("fallback", [NoFallback(), Backtrack()])
@pytest.mark.parametrize("branching", BRANCHINGS)
def test_the_expected_update_is_the_policy_gradient(branching, fallback) -> None:
    """RLOO exactly; DrGRPO but for each node's share of its own baseline, which is what the docs say; neither with
    leaves that count the same."""
    found, kept = np.zeros(4), 0.0
    for probability, tree in all_trees(rules(branching=branching, fallback=fallback), POLICY):
        rewards, scores = values_of(tree), scores_of(tree)
        estimators = unbiased(RLOO()), unbiased(DrGRPO()), RLOO(), DrGRPO()
        found += probability * np.array([e(tree, rewards) @ scores / len(scores) for e in estimators])
        kept += probability * kept_of_nodes(tree, rewards)
    assert found[0] == pytest.approx(TARGET, abs=1e-12)
    assert found[1] == pytest.approx(kept, abs=1e-12)
    assert abs(found[2] - TARGET) > 0.003
    assert abs(found[3] - kept) > 1e-5


def test_with_a_constant_baseline_the_counts_alone_are_exact() -> None:
    """What all of these estimators share, also where the number of first children is drawn."""
    found = np.zeros(2)
    for probability, tree in all_trees(rules(fork=UP_TO_THREE, fallback=Backtrack()), POLICY):
        gains = (values_of(tree) - 0.3) * scores_of(tree)
        found += probability * np.array([(e.counts(tree) * gains).mean() for e in (unbiased(DrGRPO()), DrGRPO())])
    assert found[0] == pytest.approx(TARGET, abs=1e-12)
    assert abs(found[1] - TARGET) > 0.003


def test_by_hand() -> None:
    """An early end, and three leaves below its sibling, one of them a fallback's: counts 2, 1, 1 and 0."""
    tree = tree_of({0: (1, 2), 2: (3, 4)})
    add_segment(tree, 2, [9], StopReason.EOS, from_fallback=True)
    rewards = np.array([1.0, 1, 0, 0])
    assert unbiased(DrGRPO()).counts(tree) == pytest.approx([2, 1, 1, 0])
    assert unbiased(DrGRPO())(tree, rewards) == pytest.approx([0.5, 0.25, -0.75, 0])
    std = np.sqrt((2 * 0.25**2 + 0.25**2 + 0.75**2) / (4 - 6 / 4))
    assert unbiased(GRPO(eps=1e-12))(tree, rewards) == pytest.approx(np.array([0.5, 0.25, -0.75, 0]) / std)
    assert unbiased(RLOO())(tree, rewards) == pytest.approx([2 * (1 - 0.5), 1 - 1, 0 - 1, 0])
    assert unbiased(TreePO())(tree, rewards) == pytest.approx([0.5, (0.25 + 0.5) / 2, (-0.75 - 0.5) / 2, 0])
    size = unbiased(TreePO(weight="size"))(tree, rewards)
    assert size == pytest.approx([0.5, (4 * 0.25 + 2 * 0.5) / 6, (4 * -0.75 + 2 * -0.5) / 6, 0])


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_they_are_not_whitened(estimator: Any) -> None:
    """Whitening subtracted a mean from what counts nothing too, and pushed up what a fallback drew."""
    with pytest.raises(ValueError, match="^leaves: 'unbiased' needs whiten = false"):
        replace(estimator, leaves="unbiased", whiten=True)
    assert replace(estimator, whiten=True).whiten


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_a_single_leaf_that_counts(estimator: Any) -> None:
    """Its own reward is the mean; only RLOO, whose others are none, keeps it, three times."""
    tree = star(1)
    for _ in range(2):
        add_segment(tree, ROOT, [1, 2], StopReason.EOS, from_fallback=True)
    expected = [3 * 0.7, 0, 0] if isinstance(estimator, RLOO) else [0, 0, 0]
    assert unbiased(estimator)(tree, np.array([0.7, 1, 0])) == pytest.approx(expected)


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_on_a_star_and_on_complete_trees_nothing_changes(estimator: Any) -> None:
    """All leaves count the same; RLOO's others are other leaves on a star, other halves of a complete tree."""
    rewards = np.array([1.0, 1, -1, 1, -1, -1, -1, -1])
    assert unbiased(estimator)(star(8), rewards) == pytest.approx(estimator(star(8), rewards))
    assert unbiased(estimator)(star(1), np.ones(1)) == pytest.approx(estimator(star(1), np.ones(1)))
    found = unbiased(estimator)(complete_tree(3), rewards)
    expected = (
        rewards - np.repeat([-1.0, 0.5], 4) if isinstance(estimator, RLOO) else estimator(complete_tree(3), rewards)
    )
    assert found == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(trees(min_leaves=2), st.integers(0, 2**32))
def test_by_default_not_a_bit_changes(tree: Tree, seed: int) -> None:
    """The plain formulas, in numpy's own functions."""
    rewards = np.random.default_rng(seed).normal(size=len(tree.leaves()))
    centred = rewards - rewards.mean()
    assert DrGRPO()(tree, rewards).tolist() == REINFORCEPlusPlus()(tree, rewards).tolist() == centred.tolist()
    assert GRPO()(tree, rewards).tolist() == (centred / (rewards.std(ddof=1) + 1e-6)).tolist()
    assert RLOO()(tree, rewards).tolist() == (centred * (len(rewards) / (len(rewards) - 1))).tolist()
    groups = tree.groups()
    for i, leaf in enumerate(tree.leaves()):
        own = [rewards[groups[n]] for n in tree.path(leaf)[:-1] if n == ROOT or len(groups[n]) > 1]
        plain = np.average([rewards[i] - group.mean() for group in own], weights=[1] * len(own))
        sized = np.average([rewards[i] - group.mean() for group in own], weights=[len(group) for group in own])
        scaled = np.average([(rewards[i] - g.mean()) / (g.std(ddof=1) + 1e-6) for g in own], weights=[1] * len(own))
        assert TreePO()(tree, rewards)[i] == plain
        assert TreePO(weight="size")(tree, rewards)[i] == sized
        assert TreePO(divide_by_std=True)(tree, rewards)[i] == scaled


@settings(max_examples=100, deadline=None)
@given(trees(), st.integers(0, 2**32))
def test_subgroups_compare_with_the_unbiased_mean_of_each(tree: Tree, seed: int) -> None:
    """`group_means`, which goes bottom up; what counts nothing has no advantage."""
    rewards = np.random.default_rng(seed).normal(size=len(tree.leaves()))
    means, weights, groups = group_means(tree, rewards), leaf_weights(tree), tree.groups()
    for i, (leaf, found) in enumerate(zip(tree.leaves(), unbiased(TreePO())(tree, rewards), strict=True)):
        own = [n for n in tree.path(leaf)[:-1] if n == ROOT or np.count_nonzero(weights[groups[n]]) > 1]
        assert found == pytest.approx(len(rewards) * weights[i] * np.mean([rewards[i] - means[n] for n in own]))


@settings(max_examples=200, deadline=None)
@given(trees(min_leaves=2), st.integers(0, 2**32), st.sampled_from(ALL))
def test_neither_the_order_of_leaves_nor_a_constant_matters(tree: Tree, seed: int, estimator: Any) -> None:
    """Except that RLOO has nothing to compare with where one child of the prompt has all that counts."""
    own = unbiased(estimator)
    rng = np.random.default_rng(seed)
    rewards = rng.integers(2, size=len(tree.leaves())).astype(float)
    other, old = relabelled(tree, rng)
    raw = own(tree, rewards)
    assert own(other, rewards[old]) == pytest.approx(raw[old], abs=1e-6)
    counts = own.counts(tree)
    if (
        isinstance(own, RLOO)
        and len({tree.path(leaf)[1] for leaf, m in zip(tree.leaves(), counts, strict=True) if m > 0}) == 1
    ):
        assert raw == pytest.approx(counts * rewards)
    else:
        assert own(tree, rewards + 2) == pytest.approx(raw, abs=1e-6)
        assert own(tree, np.full(len(rewards), 0.7)) == pytest.approx(np.zeros(len(rewards)), abs=1e-6)
    if isinstance(own, DrGRPO | REINFORCEPlusPlus):
        assert raw.sum() == pytest.approx(0, abs=1e-9)

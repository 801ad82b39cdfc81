"""The subgroup advantage against the paper's numbers, its definition, and what must not change it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import add_segment, complete_tree, copy_of, relabelled, star, tree_of, trees
from treepo.credit.base import whiten
from treepo.credit.group import GRPO, DrGRPO
from treepo.credit.subgroup import TreePO
from treepo.tree import ROOT, Tree

pytestmark = pytest.mark.quick

REWARDS = np.array([1.0, 1, -1, 1, -1, -1, -1, -1])


def rewards_for(tree: Tree, seed: int) -> np.ndarray:
    """A random reward per leaf, with ties."""
    return np.random.default_rng(seed).choice([-1.0, 0.0, 0.25, 1.0], len(tree.leaves()))


VARIANTS = [
    TreePO(weight, *flags) for weight in ("equal", "size") for flags in itertools.product([False, True], repeat=4)
]


def by_definition(tree: Tree, rewards: np.ndarray, variant: TreePO) -> list[float]:
    """From parents alone: a mean over the ancestors that count of R_i - mean R below them."""
    leaves = tree.leaves()

    def ancestors(index: int) -> list[int]:
        parent = tree.nodes[index].parent
        return [] if parent < 0 else [parent, *ancestors(parent)]

    def below(node: int) -> list[int]:
        return [k for k, other in enumerate(leaves) if node in ancestors(other)]

    advantages = []
    for i, leaf in enumerate(leaves):
        total = weights = 0.0
        for node in ancestors(leaf):
            group = [rewards[k] for k in below(node)]
            if node == ROOT:
                is_counted = variant.with_root
            else:
                is_counted = len(group) >= 2
                is_counted &= not (variant.distinct and below(tree.nodes[node].parent) == below(node))
                is_counted &= not (variant.reject_agreeing and len(set(group)) == 1)
            if is_counted:
                scale = np.std(group, ddof=1) + 1e-6 if variant.divide_by_std and len(group) > 1 else 1.0
                weight = len(group) if variant.weight == "size" else 1
                total += weight * (rewards[i] - sum(group) / len(group)) / scale
                weights += weight
        advantages.append(total / weights if weights else 0.0)
    return advantages


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (TreePO(), [0.5833, 0.5833, -1.0833, 0.9167, -0.25]),
        (TreePO(weight="size"), [0.8571, 0.8571, -1, 1, -0.4286]),
        (TreePO(reject_agreeing=True), [0.875, 0.875, -1.0833, 0.9167, -0.75]),
        (TreePO(weight="size", reject_agreeing=True), [1, 1, -1, 1, -0.75]),
        (TreePO(with_root=False), [0.25, 0.25, -1.25, 0.75, 0]),
    ],
)
def test_raw_on_the_fixture(variant: TreePO, expected: list[float]) -> None:
    """Complete binary tree with 8 leaves; the last four share the last number."""
    assert variant(complete_tree(3), REWARDS) == pytest.approx([*expected, *expected[-1:] * 3], abs=5e-5)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (TreePO(), [0.9464, 0.9464, -1.7576, 1.4872, -0.4056]),
        (TreePO(weight="size"), [1.1638, 1.1638, -1.3577, 1.3577, -0.5819]),
    ],
)
def test_whitened_on_the_fixture(variant: TreePO, expected: list[float]) -> None:
    """Over 4 tokens per leaf."""
    [advantages] = whiten([variant(complete_tree(3), REWARDS)], [np.full(8, 4)])
    assert advantages == pytest.approx([*expected, *expected[-1:] * 3], abs=5e-5)


def test_dividing_by_std_on_the_fixture() -> None:
    """Worked out by hand: std of the groups sqrt(8/7 - 1/14), 1 and sqrt(2), or 0 where all agree."""
    root, quarter = np.sqrt(15 / 14), np.sqrt(2)
    expected = [(1.25 / root + 0.5) / 3, (-0.75 / root - 1.5 - 1 / quarter) / 3, (1.25 / root + 0.5 + 1 / quarter) / 3]
    advantages = TreePO(divide_by_std=True)(complete_tree(3), REWARDS)
    assert advantages == pytest.approx([expected[0], *expected, *[-0.75 / root / 3] * 4], abs=1e-5)


def test_whitening_is_the_default() -> None:
    """As in the authors' runs."""
    assert TreePO().whiten
    assert not TreePO(whiten=False).whiten


def test_a_chain_repeats_its_group() -> None:
    """The two depth-1 groups again at depth 2: leaf 1 gets (1.25 + .5 + .5) / 3 = .75, not the deduplicated .875."""
    tree = tree_of({0: [1, 2], 1: [3], 2: [4], 3: [5, 6, 7, 8], 4: [9, 10, 11, 12]})
    assert TreePO()(tree, REWARDS)[0] == pytest.approx(0.75)
    assert TreePO(distinct=True)(tree, REWARDS)[0] == pytest.approx(0.875)
    short = tree_of({0: [1, 2], 1: [3, 4, 5, 6], 2: [7, 8, 9, 10]})
    assert TreePO()(short, REWARDS)[0] == pytest.approx(0.875)


def test_a_chain_below_the_root_repeats_its_group() -> None:
    """Without the root its repetition still counts, unless groups count once: then it is gone with the root's."""
    tree, rewards = tree_of({0: [1], 1: [2, 3]}), np.array([1.0, 0.0])
    assert TreePO(with_root=False)(tree, rewards) == pytest.approx([0.5, -0.5])
    assert TreePO(with_root=False, distinct=True)(tree, rewards).tolist() == [0, 0]


def test_nodes_with_one_leaf_are_skipped() -> None:
    """A chain that leads to a single leaf adds nothing, however long it is."""
    tree = tree_of({0: [1, 2], 1: [3], 3: [4], 4: [5]})
    assert tree.leaves() == [2, 5]
    assert TreePO()(tree, np.array([1.0, 0.0])) == pytest.approx([0.5, -0.5])


def test_the_root_counts_even_with_a_single_leaf() -> None:
    """A tree of one trajectory has advantage 0."""
    assert TreePO()(star(1), np.array([1.0])).tolist() == [0]
    assert TreePO()(tree_of({0: [1], 1: [2]}), np.array([-1.0])).tolist() == [0]


def test_a_fallback_inside_a_segment_makes_a_group() -> None:
    """The kept part of a split segment is an ancestor of the old path and of the new one."""
    tree = star(2, lengths=4)
    upper = tree.cut(1, 2)
    tree.add(type(tree.nodes[2])(upper, tree.nodes[2].token_ids, tree.nodes[2].sampled_logprobs, 0, tree.nodes[2].stop))
    rewards = np.array([1.0, 0.0, 0.0])
    expected = [(2 / 3 + 1 / 2) / 2, -1 / 3, (-1 / 3 - 1 / 2) / 2]
    assert TreePO()(tree, rewards) == pytest.approx(expected)


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
@settings(max_examples=30, deadline=None)
@given(tree=trees(), seed=st.integers(0, 2**32))
def test_every_variant_equals_its_definition(variant: TreePO, tree: Tree, seed: int) -> None:
    """On random trees with chains, splits, leaves at any depth, and paths that never ended."""
    for node in (ROOT, next(i for i, n in enumerate(tree.nodes) if n.stop is None)):
        add_segment(tree, node, [1, 2])
    rewards = rewards_for(tree, seed)
    assert variant(tree, rewards) == pytest.approx(by_definition(tree, rewards, variant), abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
@settings(max_examples=20, deadline=None)
@given(rewards=st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_on_a_star_each_variant_is_its_flat_form(variant: TreePO, rewards: list[float]) -> None:
    """On sequential sampling: GRPO or the mean-centred reward, and nothing without the root's group."""
    values, tree = np.array(rewards), star(len(rewards))
    flat = (GRPO() if variant.divide_by_std else DrGRPO())(tree, values) * variant.with_root
    assert variant(tree, values) == pytest.approx(flat, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 2**32), st.sampled_from(VARIANTS))
def test_the_order_of_leaves_does_not_matter(tree: Tree, seed: int, variant: TreePO) -> None:
    """Nodes numbered otherwise: each leaf keeps its advantage."""
    rewards = rewards_for(tree, seed)
    other, old = relabelled(tree, np.random.default_rng(seed))
    assert variant(other, rewards[old]) == pytest.approx(variant(tree, rewards)[old], abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 2**32), st.floats(-5, 5), st.floats(0, 5), st.sampled_from(VARIANTS))
def test_rewards_matter_only_by_their_differences(
    tree: Tree, seed: int, shift: float, scale: float, variant: TreePO
) -> None:
    """A constant added changes nothing, and a factor scales the advantage unless a subgroup's std divides it."""
    # Eighths are added without rounding, so groups that agree go on agreeing.
    rewards, shift = rewards_for(tree, seed), round(shift * 8) / 8
    raw = variant(tree, rewards)
    assert variant(tree, rewards + shift) == pytest.approx(raw, abs=1e-6)
    assert variant(tree, np.full(len(rewards), shift)) == pytest.approx(np.zeros(len(rewards)), abs=1e-9)
    if not variant.divide_by_std and scale > 0.01:
        assert variant(tree, rewards * scale) == pytest.approx(raw * scale, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(trees(min_leaves=2), st.integers(0, 2**32))
def test_splits_that_nothing_branches_from_only_repeat_groups(tree: Tree, seed: int) -> None:
    """Splitting a segment above a single leaf changes no advantage."""
    rewards = rewards_for(tree, seed)
    other = copy_of(tree)
    single = [i for i, group in tree.groups().items() if len(group) == 1 and len(tree.nodes[i].token_ids) > 1]
    for index in single:
        other.split(index, 1)
    assert TreePO()(other, rewards) == pytest.approx(TreePO()(tree, rewards))

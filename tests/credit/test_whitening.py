"""Whitening over the response tokens of a batch, against an explicit list of tokens."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.trees import add_segment, trees
from treepo.credit.base import Advantages, whiten
from treepo.tree import ROOT, Tree

pytestmark = pytest.mark.quick

leaf_rows = st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 9)), min_size=1, max_size=6)
batches = st.lists(leaf_rows, min_size=1, max_size=5).map(
    lambda trees: ([np.array([a for a, _ in t]) for t in trees], [np.array([n for _, n in t]) for t in trees])
)
Batch = tuple[list[np.ndarray], list[np.ndarray]]


def tokens_of(values: list[np.ndarray], lengths: list[np.ndarray]) -> np.ndarray:
    """One value per response token."""
    return np.repeat(np.concatenate(values), np.concatenate(lengths))


@settings(max_examples=300, deadline=None)
@given(batches)
def test_equals_whitening_an_explicit_token_list(batch: Batch) -> None:
    """A leaf counts as often as it has tokens."""
    raw = tokens_of(*batch)
    variance = raw.var(ddof=1) if len(raw) > 1 else 0.0
    expected = (raw - raw.mean()) / np.sqrt(variance + 1e-8)
    assert tokens_of(whiten(*batch), batch[1]) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(batches)
def test_tokens_have_mean_0_and_unbiased_variance_1(batch: Batch) -> None:
    """Up to the 1e-8 under the root."""
    raw = tokens_of(*batch)
    assume(len(raw) > 1 and raw.std() > 0.01)
    white = tokens_of(whiten(*batch), batch[1])
    assert white.mean() == pytest.approx(0, abs=1e-7)
    assert white.var(ddof=1) == pytest.approx(1, abs=1e-3)


def test_long_trajectories_weigh_more() -> None:
    """Tokens 1, 0, 0, 0: mean .25 and unbiased variance .25; counting leaves would give .5 and .5."""
    [white] = whiten([np.array([1.0, 0.0])], [np.array([1, 3])])
    assert white == pytest.approx([1.5, -0.5])


def test_the_whole_batch_is_whitened_at_once() -> None:
    """Not each tree by itself: a tree that is better than another stays better."""
    white = whiten([np.array([1.0, 1.0]), np.array([-1.0, -1.0])], [np.array([2, 2]), np.array([2, 2])])
    assert np.concatenate(white) == pytest.approx(np.array([1, 1, -1, -1]) * np.sqrt(7 / 8))


@settings(max_examples=100, deadline=None)
@given(batches, st.randoms(use_true_random=False))
def test_the_order_of_trees_does_not_matter(batch: Batch, random: object) -> None:
    """Nor how leaves are divided among them."""
    white = whiten(*batch)
    order = list(range(len(white)))
    random.shuffle(order)
    shuffled = whiten(*[[part[i] for i in order] for part in batch])
    for new, i in zip(shuffled, order, strict=True):
        assert new == pytest.approx(white[i], abs=1e-9)
    [together] = whiten(*[[np.concatenate(part)] for part in batch])
    assert together == pytest.approx(np.concatenate(white), abs=1e-9)


def test_equal_advantages_and_single_tokens_become_0() -> None:
    """Without a variance there is no signal, and no nan."""
    assert whiten([np.full(3, 0.7)], [np.array([1, 5, 2])])[0] == pytest.approx(np.zeros(3), abs=1e-9)
    assert whiten([np.array([3.0])], [np.array([1])])[0].tolist() == [0.0]


@settings(max_examples=100, deadline=None)
@given(trees(), st.integers(0, 2**32))
def test_a_node_counts_once_for_each_trajectory_through_it(tree: Tree, seed: int) -> None:
    """Whitening nodes equals whitening every token of every trajectory; nodes that are no token of any become 0."""
    add_segment(tree, ROOT, [1, 2])
    values = np.random.default_rng(seed).normal(size=len(tree.nodes))
    by_token = [
        np.repeat(values[i], len(tree.nodes[i].token_ids)) for leaf in tree.leaves() for i in tree.path(leaf)[1:]
    ]
    raw, counts = np.concatenate(by_token), Advantages(values, per_node=True).token_counts(tree)
    assert counts.sum() == len(raw) == sum(tree.response_len(leaf) for leaf in tree.leaves())
    [white] = whiten([values], [counts])
    std = raw.std(ddof=1) if len(raw) > 1 else 0.0
    expected = (values - raw.mean()) / np.sqrt(std**2 + 1e-8)
    assert white[counts > 0] == pytest.approx(expected[counts > 0])
    assert white[[ROOT, -1]].tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(trees())
def test_a_leaf_counts_its_response(tree: Tree) -> None:
    lengths = [tree.response_len(leaf) for leaf in tree.leaves()]
    assert Advantages(np.zeros(len(lengths))).token_counts(tree).tolist() == lengths


def test_values_far_from_0_lose_nothing() -> None:
    """Squares around 0 would leave 0 of a variance of 1 beside 1e8."""
    values, counts = [np.array([1e8 - 1, 1e8 + 1])], [np.array([1, 1])]
    assert whiten(values, counts)[0] == pytest.approx(np.array([-1, 1]) / np.sqrt(2))


def test_a_process_without_trees_whitens_nothing() -> None:
    """It still takes part in the sums of the others."""
    assert whiten([], []) == []

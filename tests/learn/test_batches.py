"""Trees side by side."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.test_packing import advantages_of, prefixes_of
from tests.trees import random_tree
from treepo.learn.packing import PackedTree, pack
from treepo.learn.scoring import collate, micro_batches

pytestmark = pytest.mark.quick


def packed_trees(seed: int, num_trees: int) -> list[PackedTree]:
    """Random ones."""
    rng = np.random.default_rng(seed)
    return [pack(t, advantages_of(t)) for t in (random_tree(rng, int(rng.integers(1, 6))) for _ in range(num_trees))]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_micro_batches_keep_to_the_budget_and_are_balanced(seed: int, num_trees: int, max_tokens: int) -> None:
    """Each tree comes once; only a tree that is larger than the budget exceeds it, alone; no batch is left so empty
    that a tree of another one would have gone there."""
    packed = packed_trees(seed, num_trees)
    sizes = [tree.num_tokens for tree in packed]
    batches = micro_batches(packed, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(num_trees))
    shared = [batch for batch in batches if sum(sizes[i] for i in batch) <= max_tokens]
    assert all(len(batch) == 1 for batch in batches if batch not in shared)
    loads = [sum(sizes[i] for i in batch) for batch in shared]
    for batch, load in zip(shared, loads, strict=True):
        assert load - min(sizes[i] for i in batch) <= min(loads)


def test_micro_batches_are_as_even_as_can_be() -> None:
    """Six trees in two batches: filling up one after the other would leave 9 and 2 tokens."""
    tree = packed_trees(0, 1)[0]

    class Sized:
        def __init__(self, num_tokens: int) -> None:
            self.num_tokens = num_tokens

    sizes = [4, 1, 3, 1, 1, 1]
    batches = micro_batches([Sized(n) for n in sizes], 9)  # pyright: ignore[reportArgumentType]
    assert sorted(sum(sizes[i] for i in batch) for batch in batches) == [5, 6]
    assert micro_batches([tree], 10**6) == [[0]]
    assert micro_batches([], 10) == []


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_joined_trees_do_not_see_each_other(seed: int) -> None:
    """In a batch each tree keeps its paths, targets, leaves and weights."""
    packed = packed_trees(seed, 3)
    batch = collate(packed)
    prefixes = prefixes_of(batch.packed)
    assert prefixes == [p for tree in packed for p in prefixes_of(tree)]
    assert [b - a for a, b in pairwise(batch.offsets)] == [tree.num_tokens for tree in packed]
    targets = [
        (prefixes[target], prefixes[predecessor])
        for target, predecessor in zip(batch.packed.targets, batch.packed.predecessors, strict=True)
    ]
    expected = []
    for tree in packed:
        own = prefixes_of(tree)
        expected += [(own[t], own[p]) for t, p in zip(tree.targets, tree.predecessors, strict=True)]
    assert targets == expected
    for name in ("sampled_logprobs", "leaf_advantages", "lens", "leaf_weights", "positions"):
        parts = [getattr(tree, name) for tree in packed]
        np.testing.assert_array_equal(getattr(batch.packed, name), np.concatenate(parts))
    whole = batch.packed.sum_over_leaves(batch.packed.leaf_advantages)
    np.testing.assert_allclose(
        whole, np.concatenate([t.sum_over_leaves(t.leaf_advantages) for t in packed]), rtol=0, atol=1e-12
    )

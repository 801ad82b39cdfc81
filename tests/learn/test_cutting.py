"""What is packed, cut in parts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.test_packing import advantages_of, prefixes_of
from tests.trees import star, trees
from treepo.credit.base import Advantages
from treepo.learn.packing import PackedTree, pack, pack_in_parts, split_packed
from treepo.tree import Tree

pytestmark = pytest.mark.quick


def content(packed: PackedTree) -> list[tuple[tuple[int, ...], float, int, float]]:
    """For each target, sorted: the path to it, what the engine reported, the leaves below, and the sum of their weights
    with their advantages."""
    paths = prefixes_of(packed)
    assert sorted(paths) == sorted(set(paths))
    assert [paths[i][:-1] for i in packed.targets] == [paths[i] for i in packed.predecessors]
    sums = packed.sum_by_advantage(packed.leaf_weights * packed.lens, lambda a: a)
    counts = packed.leaf_ends - packed.leaf_starts
    logprobs = packed.sampled_logprobs.tolist()
    return sorted(zip([paths[i] for i in packed.targets], logprobs, counts.tolist(), sums.round(9), strict=True))


@given(trees(), st.integers(1, 60), st.sampled_from(["leaves", "nodes", "both"]))
@settings(deadline=None, max_examples=60)
def test_parts_are_those_that_packing_within_the_limit_would_have_made(tree: Tree, limit: int, credit: str) -> None:
    """But for the order of siblings, whether advantages are given per leaf, per node, or per node and leaf."""
    rng = np.random.default_rng(limit)
    num_nodes, num_leaves = len(tree.nodes), len(tree.leaves())
    shapes = {"leaves": (num_leaves,), "nodes": (num_nodes,), "both": (num_nodes, num_leaves)}
    advantages = Advantages(rng.normal(size=shapes[credit]), per_node=credit != "leaves")
    parts, expected = split_packed(pack(tree, advantages), limit), pack_in_parts(tree, advantages, limit)
    assert len(parts) == len(expected)
    for part, other in zip(parts, expected, strict=True):
        assert (part.num_tokens, content(part)) == (other.num_tokens, content(other))


@given(trees(), st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_what_was_found_out_since_packing_stays_with_its_targets_and_leaves(tree: Tree, limit: int) -> None:
    """Weights and log-probabilities, which packing again would lose."""
    whole = pack(tree, advantages_of(tree))
    known = replace(
        whole,
        leaf_weights=3 * whole.leaf_advantages,
        recomputed_logprobs=2 * whole.sampled_logprobs,
        ref_logprobs=5 * whole.sampled_logprobs,
    )
    for part in split_packed(known, limit):
        np.testing.assert_array_equal(part.leaf_weights, 3 * part.leaf_advantages)
        np.testing.assert_array_equal(part.recomputed_logprobs, 2 * part.sampled_logprobs)
        np.testing.assert_array_equal(part.ref_logprobs, 5 * part.sampled_logprobs)


@given(trees(), st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_parts_may_be_cut_again(tree: Tree, first: int, second: int) -> None:
    """Every trajectory stays whole in one part, and every part within the limit but for a longer trajectory."""
    whole = pack(tree, advantages_of(tree))
    parts = [again for part in split_packed(whole, first) for again in split_packed(part, second)]
    assert all(part.num_tokens <= max(second, whole.max_trajectory_len) for part in parts)
    assert sorted(a for part in parts for a in part.leaf_advantages) == sorted(whole.leaf_advantages)
    assert sum(part.lens.sum() for part in parts) == whole.lens.sum()
    for part in parts:
        prompt = len(tree.prompt_ids)
        assert (part.positions[part.last_tokens()] + 1 == part.lens + prompt).all()


@pytest.mark.parametrize("limit", [1, 5])
def test_a_single_trajectory_is_never_cut(limit: int) -> None:
    """It is what one forward has to take."""
    packed = pack(star(1, 6), np.ones(1))
    assert packed.max_trajectory_len == packed.num_tokens > 6
    assert split_packed(packed, limit) == [packed]

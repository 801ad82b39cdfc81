"""Packing: every distinct token once, and what is learned from each."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.reference import flatten, sequences_of, subtree_ends
from tests.trees import add_segment, random_tree, star, trees
from treepo.learn.packing import PackedTree, join, micro_batches, num_distinct, pack
from treepo.tree import ROOT, StopReason, Tree


def advantages_of(tree: Tree, seed: int = 0) -> np.ndarray:
    """One random advantage per leaf, of both signs."""
    return np.random.default_rng(seed).normal(size=len(tree.leaves()))


def prefixes_of(packed: PackedTree) -> list[tuple[int, ...]]:
    """For each packed token, the ids of what it can see by `subtree_ends`: its path."""
    index = np.arange(packed.num_tokens)
    visible = (index[:, None] >= index) & (index[:, None] < packed.subtree_ends)
    return [tuple(packed.token_ids[row].tolist()) for row in visible]


@given(trees())
@settings(deadline=None)
def test_each_distinct_token_is_there_once(tree: Tree) -> None:
    """The paths of the packed tokens are the distinct beginnings of the trajectories, each once."""
    packed = pack(tree, advantages_of(tree))
    prefixes = prefixes_of(packed)
    assert sorted(prefixes) == flatten(sequences_of(tree))
    assert packed.num_tokens == len(prefixes)


@given(trees())
@settings(deadline=None)
def test_positions_are_depths(tree: Tree) -> None:
    """A token's position is the number of tokens above it in its trajectory."""
    packed = pack(tree, advantages_of(tree))
    assert packed.positions.tolist() == [len(prefix) - 1 for prefix in prefixes_of(packed)]


@given(trees())
@settings(deadline=None)
def test_order_is_depth_first(tree: Tree) -> None:
    """The tokens at or below one are exactly those up to its subtree's end."""
    packed = pack(tree, advantages_of(tree))
    prefixes = prefixes_of(packed)
    for i, end in enumerate(packed.subtree_ends.tolist()):
        below = [j for j, other in enumerate(prefixes) if other[: len(prefixes[i])] == prefixes[i]]
        assert below == list(range(i, end))


@given(trees())
@settings(deadline=None)
def test_predecessors_are_one_token_above(tree: Tree) -> None:
    """A term's logits come from the token right above its own."""
    packed = pack(tree, advantages_of(tree))
    prefixes = prefixes_of(packed)
    for target, predecessor in zip(packed.targets, packed.predecessors, strict=True):
        assert prefixes[predecessor] == prefixes[target][:-1]


@given(trees())
@settings(deadline=None)
def test_terms_are_the_tokens_of_the_nodes(tree: Tree) -> None:
    """For each packed token, the terms sum up what the trajectories through its nodes would contribute."""
    advantages = advantages_of(tree)
    packed = pack(tree, advantages)
    prefixes = prefixes_of(packed)
    expected: dict[tuple[tuple[int, ...], float], np.ndarray] = defaultdict(lambda: np.zeros(3))
    for leaf, advantage in zip(tree.leaves(), advantages, strict=True):
        ids, first = tree.ids(leaf).tolist(), len(tree.prompt_ids)
        for i, logprob in enumerate(tree.trajectory(leaf).sampled_logprobs.tolist()):
            share = np.array([max(advantage, 0.0), min(advantage, 0.0), 1.0])
            expected[tuple(ids[: first + i + 1]), logprob] += share
    got: dict[tuple[tuple[int, ...], float], np.ndarray] = defaultdict(lambda: np.zeros(3))
    for s, target in enumerate(packed.targets):
        key = prefixes[target], float(packed.sampled_logprobs[s])
        got[key] += [packed.positive[s], packed.negative[s], packed.num_leaves[s]]
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-12)


@given(trees())
@settings(deadline=None)
def test_every_trajectory_counts_all_its_tokens(tree: Tree) -> None:
    """Summed over the terms, the trajectories are the sum of all responses' lengths, as the token-mean needs."""
    packed = pack(tree, advantages_of(tree))
    assert packed.num_leaves.sum() == sum(tree.response_len(leaf) for leaf in tree.leaves())
    assert len(packed.targets) == tree.num_decoded()


@given(trees())
@settings(deadline=None)
def test_num_distinct_counts_below_the_prompt(tree: Tree) -> None:
    """The distinct tokens are those that are packed, without the prompt."""
    distinct = flatten(sequences_of(tree))
    assert num_distinct(tree) == len(distinct) - len(tree.prompt_ids)
    assert num_distinct(tree) <= tree.num_decoded()


def test_siblings_that_begin_alike_are_merged() -> None:
    """Two siblings with two equal tokens share them, and what lies below equal siblings is shared too."""
    tree = Tree.planted("alike", np.array([7, 8]), seed=0)
    first = add_segment(tree, ROOT, [1, 2])
    second = add_segment(tree, ROOT, [1, 2])
    add_segment(tree, first, [3, 4], StopReason.EOS)
    add_segment(tree, second, [3, 5], StopReason.EOS)
    packed = pack(tree, np.array([2.0, -1.0]))
    assert packed.num_tokens == 2 + 5
    assert num_distinct(tree) == 5
    assert Counter(packed.token_ids.tolist()) == Counter([7, 8, 1, 2, 3, 4, 5])
    terms = zip(
        packed.token_ids[packed.targets].tolist(), packed.positive.tolist(), packed.negative.tolist(), strict=True
    )
    # The merged tokens keep a term per node, so that each keeps the log-probability that it was sampled with.
    assert sorted(terms) == sorted([(t, 2.0, 0.0) for t in (1, 2, 3, 4)] + [(t, 0.0, -1.0) for t in (1, 2, 3, 5)])


def test_leaves_that_disagree_keep_both_sums() -> None:
    """A token under leaves of advantages 3, 1 and -2 carries 4 and -2, not their sum."""
    tree = Tree.planted("disagree", np.array([7]), seed=0)
    stem = add_segment(tree, ROOT, [1])
    for token in (2, 3, 4):
        add_segment(tree, stem, [token], StopReason.EOS)
    packed = pack(tree, np.array([3.0, 1.0, -2.0]))
    at = packed.token_ids[packed.targets] == 1
    assert packed.positive[at].tolist() == [4.0]
    assert packed.negative[at].tolist() == [-2.0]
    assert packed.num_leaves[at].tolist() == [3]


def test_an_unfinished_path_is_not_packed() -> None:
    """A node with no leaf below it, which a fallback can leave, is neither forwarded nor learned from."""
    tree = star(2, lengths=3)
    before = pack(tree, np.array([1.0, -1.0]))
    add_segment(tree, ROOT, [50, 51])
    after = pack(tree, np.array([1.0, -1.0]))
    assert 50 not in after.token_ids
    assert after.num_tokens == before.num_tokens


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_micro_batches_keep_every_tree_within_the_budget(seed: int, num_trees: int, max_tokens: int) -> None:
    """Each tree appears once, in order and whole; only a tree that is larger than the budget exceeds it, alone."""
    rng = np.random.default_rng(seed)
    grown = [random_tree(rng, int(rng.integers(1, 6))) for _ in range(num_trees)]
    packed = [pack(tree, advantages_of(tree, i)) for i, tree in enumerate(grown)]
    batches = micro_batches(packed, max_tokens)
    cut = [batch.packed.token_ids[start:end].tolist() for batch in batches for start, end in pairwise(batch.offsets)]
    assert cut == [tree.token_ids.tolist() for tree in packed]
    for batch in batches:
        assert batch.packed.num_tokens == batch.offsets[-1]
        assert batch.packed.num_tokens <= max_tokens or len(batch.offsets) == 2
    for one, other in pairwise(batches):
        assert one.packed.num_tokens + other.offsets[1] > max_tokens, "the next tree would have fitted"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_joined_trees_do_not_see_each_other(seed: int) -> None:
    """In a batch each tree keeps its paths, terms and weights."""
    rng = np.random.default_rng(seed)
    packed = [
        pack(tree, advantages_of(tree)) for tree in (random_tree(rng, 4), random_tree(rng, 1), random_tree(rng, 3))
    ]
    batch = join(packed).packed
    prefixes = prefixes_of(batch)
    assert prefixes == [p for tree in packed for p in prefixes_of(tree)]
    terms = [
        (prefixes[target], prefixes[predecessor])
        for target, predecessor in zip(batch.targets, batch.predecessors, strict=True)
    ]
    expected = []
    for tree in packed:
        own = prefixes_of(tree)
        expected += [(own[t], own[p]) for t, p in zip(tree.targets, tree.predecessors, strict=True)]
    assert terms == expected
    for name in ("sampled_logprobs", "positive", "negative", "num_leaves", "positions"):
        parts = [getattr(tree, name) for tree in packed]
        np.testing.assert_array_equal(getattr(batch, name), np.concatenate(parts))


def test_reference_ends_by_hand() -> None:
    """The reference itself, on a tree small enough to see: 1 2 (3 | 4 5) and 1 6."""
    prefixes = flatten([(1, 2, 3), (1, 2, 4, 5), (1, 6)])
    assert [p[-1] for p in prefixes] == [1, 2, 3, 4, 5, 6]
    assert subtree_ends(prefixes) == [6, 5, 3, 5, 5, 6]

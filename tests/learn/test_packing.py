"""Packing: every distinct token once, and what is learned from each."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.reference import flatten, sequences_of, subtree_ends
from tests.trees import add_segment, star, trees
from treepo.learn.packing import (
    PackedTree,
    num_distinct,
    pack,
    pack_in_parts,
    pack_trajectories,
    split_packed,
    split_points,
)
from treepo.tree import ROOT, StopReason, Tree

pytestmark = pytest.mark.quick


def advantages_of(tree: Tree, seed: int = 0) -> np.ndarray:
    """One random advantage per leaf, of both signs."""
    return np.random.default_rng(seed).normal(size=len(tree.leaves()))


def prefixes_of(packed: PackedTree) -> list[tuple[int, ...]]:
    """For each packed token, the ids of what it can see by `subtree_ends`: its path."""
    index = np.arange(packed.num_tokens)
    visible = (index[:, None] >= index) & (index[:, None] < packed.subtree_ends)
    return [tuple(packed.token_ids[row].tolist()) for row in visible]


def sums_of(packed: PackedTree) -> tuple[list[float], list[float]]:
    """Per target the sums of the positive and of the negative advantages below it."""
    parts = packed.leaf_advantages.clip(min=0), packed.leaf_advantages.clip(max=0)
    return packed.sum_over_leaves(parts[0]).tolist(), packed.sum_over_leaves(parts[1]).tolist()


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
    """A target's logits come from the token right above its own."""
    packed = pack(tree, advantages_of(tree))
    prefixes = prefixes_of(packed)
    for target, predecessor in zip(packed.targets, packed.predecessors, strict=True):
        assert prefixes[predecessor] == prefixes[target][:-1]


@given(trees())
@settings(deadline=None)
def test_targets_are_the_tokens_of_the_nodes(tree: Tree) -> None:
    """For each packed token, the targets sum up what the trajectories through its nodes would contribute."""
    advantages = advantages_of(tree)
    packed = pack(tree, advantages)
    positive, negative = (
        packed.sum_over_leaves(x) for x in (packed.leaf_advantages.clip(min=0), packed.leaf_advantages.clip(max=0))
    )
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
        got[key] += [positive[s], negative[s], packed.leaf_ends[s] - packed.leaf_starts[s]]
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-12)


@given(trees())
@settings(deadline=None)
def test_every_trajectory_counts_all_its_tokens(tree: Tree) -> None:
    """Summed over the targets, the trajectories are the sum of all responses' lengths, as the token-mean needs."""
    packed = pack(tree, advantages_of(tree))
    assert (packed.leaf_ends - packed.leaf_starts).sum() == packed.lens.sum()
    assert packed.lens.sum() == sum(tree.response_len(leaf) for leaf in tree.leaves())
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
    tree = Tree.from_prompt("alike", np.array([7, 8]), seed=0)
    first = add_segment(tree, ROOT, [1, 2])
    second = add_segment(tree, ROOT, [1, 2])
    add_segment(tree, first, [3, 4], StopReason.EOS)
    add_segment(tree, second, [3, 5], StopReason.EOS)
    packed = pack(tree, np.array([2.0, -1.0]))
    assert packed.num_tokens == 2 + 5
    assert num_distinct(tree) == 5
    assert Counter(packed.token_ids.tolist()) == Counter([7, 8, 1, 2, 3, 4, 5])
    targets = zip(packed.token_ids[packed.targets].tolist(), *sums_of(packed), strict=True)
    # The merged tokens keep a target per node, so that each keeps the log-probability that it was sampled with.
    assert sorted(targets) == sorted([(t, 2.0, 0.0) for t in (1, 2, 3, 4)] + [(t, 0.0, -1.0) for t in (1, 2, 3, 5)])


def test_leaves_that_disagree_keep_both_sums() -> None:
    """A token under leaves of advantages 3, 1 and -2 carries 4 and -2, not their sum."""
    tree = Tree.from_prompt("disagree", np.array([7]), seed=0)
    stem = add_segment(tree, ROOT, [1])
    for token in (2, 3, 4):
        add_segment(tree, stem, [token], StopReason.EOS)
    packed = pack(tree, np.array([3.0, 1.0, -2.0]))
    at = packed.token_ids[packed.targets] == 1
    positive, negative = (np.array(x) for x in sums_of(packed))
    assert positive[at].tolist() == [4.0]
    assert negative[at].tolist() == [-2.0]
    assert (packed.leaf_ends - packed.leaf_starts)[at].tolist() == [3]


def test_an_unfinished_path_is_not_packed() -> None:
    """A node with no leaf below it, which a fallback can leave, is neither forwarded nor learned from."""
    tree = star(2, lengths=3)
    before = pack(tree, np.array([1.0, -1.0]))
    add_segment(tree, ROOT, [50, 51])
    after = pack(tree, np.array([1.0, -1.0]))
    assert 50 not in after.token_ids
    assert after.num_tokens == before.num_tokens


@given(trees())
@settings(deadline=None)
def test_predecessors_rise(tree: Tree) -> None:
    """So that the targets of a chunk of logits lie together."""
    assert (np.diff(pack(tree, advantages_of(tree)).predecessors) >= 0).all()


@given(trees(min_leaves=2), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_some_trajectories_are_packed_as_their_own_tree(tree: Tree, seed: int) -> None:
    """A part holds the distinct tokens of its trajectories, with their advantages, and nothing of the others."""
    rng = np.random.default_rng(seed)
    advantages = advantages_of(tree)
    chosen = sorted(rng.permutation(len(advantages))[: rng.integers(1, len(advantages))].tolist())
    part = pack(tree, advantages, chosen)
    sequences = [sequences_of(tree)[i] for i in chosen]
    assert sorted(prefixes_of(part)) == flatten(sequences)
    assert sorted(part.leaf_advantages.tolist()) == sorted(advantages[chosen].tolist())
    assert part.lens.sum() == sum(len(s) - len(tree.prompt_ids) for s in sequences)
    for parts in pack_trajectories(tree, advantages):
        assert parts.positions.tolist() == list(range(parts.num_tokens))


@given(trees(min_leaves=2), st.integers(1, 40))
@settings(deadline=None)
def test_parts_hold_each_trajectory_once(tree: Tree, max_tokens: int) -> None:
    """Every trajectory lies whole in one part, and parts keep to the limit unless a single trajectory exceeds it."""
    advantages = advantages_of(tree)
    parts = pack_in_parts(tree, advantages, max_tokens)
    limit = max(max_tokens, *(len(s) for s in sequences_of(tree)))
    assert all(part.num_tokens <= limit for part in parts)
    assert sorted(a for part in parts for a in part.leaf_advantages.tolist()) == sorted(advantages.tolist())
    assert flatten(sequences_of(tree)) == sorted({p for part in parts for p in prefixes_of(part)})
    assert (len(parts) == 1) == (num_distinct(tree) + len(tree.prompt_ids) <= limit)


@given(trees(min_leaves=2, max_leaves=7), st.integers(1, 40))
@settings(deadline=None)
def test_parts_repeat_as_little_as_can_be(tree: Tree, max_tokens: int) -> None:
    """No other way to cut the row of trajectories in depth-first order forwards fewer tokens within the limit."""
    parts = pack_in_parts(tree, advantages_of(tree), max_tokens)
    sequences = sorted(map(tuple, sequences_of(tree)))
    limit = max(max_tokens, *map(len, sequences))
    # Any order in which those that begin alike lie together is depth first; the parts' own is one.
    order = [p for part in parts for p in leaf_paths(part)]
    assert sorted(order) == sequences
    costs = []
    for cuts in range(2 ** (len(order) - 1)):
        bounds = [0, *(i + 1 for i in range(len(order) - 1) if cuts >> i & 1), len(order)]
        sizes = [len(flatten(order[a:b])) for a, b in pairwise(bounds)]
        if max(sizes) <= limit:
            costs.append(sum(sizes))
    assert sum(part.num_tokens for part in parts) == min(costs)


def leaf_paths(packed: PackedTree) -> list[tuple[int, ...]]:
    """The ids of each trajectory, in the order in which they end in the packed tree."""
    prefixes, found = prefixes_of(packed), []
    for leaf, length in enumerate(packed.lens.astype(int)):
        own = [t for t, a, b in zip(packed.targets, packed.leaf_starts, packed.leaf_ends, strict=True) if a <= leaf < b]
        last = max(own, key=lambda t: packed.positions[t])
        assert len(own) == length
        found.append((int(last), prefixes[last]))
    return [path for _, path in sorted(found)]


def test_cuts_by_hand() -> None:
    """Four paths of 6 tokens that share 5, 1 and 5 with the one before: at most 7 tokens cut them in the middle."""
    depths, new = np.array([6, 6, 6, 6]), np.array([6, 1, 5, 1])
    assert split_points(depths, new, 100) == [0, 4]
    assert split_points(depths, new, 12) == [0, 2, 4]
    assert split_points(depths, new, 7) == [0, 2, 4]
    assert split_points(depths, new, 6) == [0, 1, 2, 3, 4]
    assert split_points(depths, new, 1) == [0, 1, 2, 3, 4], "a single path is never cut"


def test_reference_ends_by_hand() -> None:
    """The reference itself, on a tree small enough to see: 1 2 (3 | 4 5) and 1 6."""
    prefixes = flatten([(1, 2, 3), (1, 2, 4, 5), (1, 6)])
    assert [p[-1] for p in prefixes] == [1, 2, 3, 4, 5, 6]
    assert subtree_ends(prefixes) == [6, 5, 3, 5, 5, 6]


@given(trees(), st.integers(1, 40))
def test_each_target_knows_its_node_and_its_place_there(tree: Tree, max_tokens: int) -> None:
    """Whole, in parts that were packed so, and in parts of what was packed; each token of each node is a target of
    every part through it."""
    whole = pack(tree, np.zeros(len(tree.leaves())))
    in_parts = pack_in_parts(tree, np.zeros(len(tree.leaves())), max_tokens)
    for part in (whole, *in_parts, *split_packed(whole, max_tokens)):
        places = list(zip(part.target_nodes.tolist(), part.target_offsets.tolist(), strict=True))
        nodes = set(part.target_nodes.tolist())
        assert sorted(places) == [(i, k) for i in sorted(nodes) for k in range(len(tree.nodes[i].token_ids))]
        assert all({ROOT, *nodes} >= set(tree.path(i)) for i in nodes)
        ids = [int(tree.nodes[i].token_ids[k]) for i, k in places]
        assert part.token_ids[part.targets].tolist() == ids
        assert part.sampled_logprobs.tolist() == [float(tree.logprobs(i)[k]) for i, k in places]
    below = {i for leaf in tree.leaves() for i in tree.path(leaf)} - {ROOT}
    assert set(whole.target_nodes.tolist()) == below

"""PackedTree -> parts of it, where one forward cannot take the whole."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from treepo.learn.packing import PackedTree, fewest_repeated, ranges


def cut_within(packed: PackedTree, max_tokens: int) -> list[PackedTree]:
    """Cut what is packed in parts of at most `max_tokens` tokens, or of its longest trajectory's if that is more.

    The parts are those of `pack_within`, and keep what was found out about their terms since: weights and
    log-probabilities.
    """
    if packed.num_tokens <= max_tokens or len(packed.lens) == 1:
        return [packed]
    last = last_tokens(packed)
    order = np.argsort(last, kind="stable")
    bounds = fewest_repeated(packed.positions[last[order]] + 1, np.diff(last[order], prepend=-1), max_tokens)
    return [packed] if len(bounds) == 2 else [_part(packed, last, np.sort(order[a:b])) for a, b in pairwise(bounds)]


def longest_path(packed: PackedTree) -> int:
    """Tokens of the longest trajectory with its prompt."""
    return int(packed.positions.max()) + 1


def last_tokens(packed: PackedTree) -> np.ndarray:
    """int64 [L]: the packed token in which each trajectory ends."""
    last = np.zeros(len(packed.lens), np.int64)
    counts = packed.leaf_ends - packed.leaf_starts
    # Depth first, a token comes after those above it.
    np.maximum.at(last, ranges(packed.leaf_starts, packed.leaf_ends), np.repeat(packed.targets, counts))
    return last


def _part(packed: PackedTree, last: np.ndarray, leaves: np.ndarray) -> PackedTree:
    """The trajectories of some leaves, given in rising order; last: as `last_tokens` says."""
    ends = np.sort(last[leaves])
    index = np.arange(packed.num_tokens)
    has_token = np.searchsorted(ends, packed.subtree_ends) > np.searchsorted(ends, index)
    new_token = np.concatenate([[0], np.cumsum(has_token)])
    is_chosen = np.isin(np.arange(len(packed.lens)), leaves)
    new_leaf = np.concatenate([[0], np.cumsum(is_chosen)])
    starts, past = new_leaf[packed.leaf_starts], new_leaf[packed.leaf_ends]
    has_term = past > starts

    def of_terms(values: np.ndarray) -> np.ndarray:
        return values[has_term] if len(values) else values

    own = packed.own_advantages
    return replace(
        packed,
        token_ids=packed.token_ids[has_token],
        positions=packed.positions[has_token],
        subtree_ends=new_token[packed.subtree_ends[has_token]],
        targets=new_token[packed.targets[has_term]],
        predecessors=new_token[packed.predecessors[has_term]],
        sampled_logprobs=packed.sampled_logprobs[has_term],
        leaf_starts=starts[has_term],
        leaf_ends=past[has_term],
        lens=packed.lens[leaves],
        leaf_weights=packed.leaf_weights[leaves],
        advantages=packed.advantages[leaves],
        own_advantages=own[is_chosen[ranges(packed.leaf_starts, packed.leaf_ends)]] if len(own) else own,
        rescored_logprobs=of_terms(packed.rescored_logprobs),
        ref_logprobs=of_terms(packed.ref_logprobs),
    )

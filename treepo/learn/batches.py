"""PackedTree -> TreeBatch: packed trees side by side, as many as one forward takes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from treepo.learn.packing import PackedTree

TOKEN_INDICES = ("subtree_ends", "targets", "predecessors")
LEAF_INDICES = ("leaf_starts", "leaf_ends")


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """Several packed trees side by side; the fields are those of PackedTree, and indices count through the batch.

    offsets: where each tree starts, and the end of the last.
    """

    offsets: list[int]
    packed: PackedTree


def join(trees: Sequence[PackedTree]) -> TreeBatch:
    """Lay packed trees side by side."""
    token_offsets = np.cumsum([0, *(tree.num_tokens for tree in trees)])
    leaf_offsets = np.cumsum([0, *(len(tree.lens) for tree in trees)])

    def joined(name: str) -> np.ndarray:
        arrays = [getattr(tree, name) for tree in trees]
        if name in TOKEN_INDICES:
            arrays = [array + offset for array, offset in zip(arrays, token_offsets, strict=False)]
        if name in LEAF_INDICES:
            arrays = [array + offset for array, offset in zip(arrays, leaf_offsets, strict=False)]
        return np.concatenate(arrays)

    return TreeBatch(token_offsets.tolist(), PackedTree(**{f.name: joined(f.name) for f in fields(PackedTree)}))


def micro_batches(trees: Sequence[PackedTree], max_tokens: int) -> list[list[int]]:
    """Which trees go together: each batch has at most `max_tokens` tokens, and all have about as many.

    A larger tree stands alone. The largest trees are dealt first, each to the batch with the fewest tokens so far (the
    longest-processing-time rule), for the smallest number of batches with which that fits.
    """
    sizes = [tree.num_tokens for tree in trees]
    largest_first = sorted(range(len(trees)), key=lambda i: -sizes[i])
    large = [[i] for i in largest_first if sizes[i] > max_tokens]
    rest = largest_first[len(large) :]
    for count in range(-(-sum(sizes[i] for i in rest) // max_tokens), len(rest) + 1):
        batches: list[list[int]] = [[] for _ in range(count)]
        loads = [0] * count
        for i in rest:
            emptiest = loads.index(min(loads))
            batches[emptiest].append(i)
            loads[emptiest] += sizes[i]
        if max(loads, default=0) <= max_tokens:
            return large + [sorted(batch) for batch in batches]
    raise AssertionError("with a batch for each tree everything fits")


def padded_batches(trees: Sequence[PackedTree], max_tokens: int) -> list[list[int]]:
    """Which trajectories go together as rows, so that each batch has at most `max_tokens` tokens with its padding.

    The longest come first, so that rows of a batch are about as long as each other; a longer one stands alone.
    """
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(trees)), key=lambda i: -trees[i].num_tokens):
        if room == 0:
            batches.append([])
            room = max(1, max_tokens // trees[i].num_tokens)
        batches[-1].append(i)
        room -= 1
    return batches

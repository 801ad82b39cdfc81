"""Trees -> TreeBatch: each shared token once.

A tree's nodes share what their paths share, and siblings that begin alike are merged too, so that every distinct
token is forwarded once. What is learned is kept apart from what is forwarded: a term is one token of one node, with
its own sampled log-probability and the advantages of the leaves below it.

Letters: T packed tokens · S terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.tree import ROOT, Tree


@dataclass(frozen=True, eq=False)
class PackedTree:
    """One tree in depth-first order.

    token_ids, positions int64 [T]; a token's position is its depth in tokens.
    subtree_ends int64 [T]: one past the last token at or below each token.
    targets int64 [S]: the packed token of each term; predecessors int64 [S]: the token above it, whose logits
        predict it.
    sampled_logprobs float32 [S]: what the engine reported for the term.
    positive, negative float64 [S]: sums of the advantages above and below 0 of the leaves under the term. Leaves that
        share a token may disagree, and the clipped loss is not linear, so one sum would not do.
    num_leaves int64 [S]: trajectories that the term belongs to.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    subtree_ends: np.ndarray
    targets: np.ndarray
    predecessors: np.ndarray
    sampled_logprobs: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    num_leaves: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """Several packed trees side by side; the fields are those of PackedTree, and indices count through the batch.

    offsets: where each tree starts, and the end of the last.
    """

    offsets: list[int]
    packed: PackedTree


def pack(tree: Tree, advantages: np.ndarray) -> PackedTree:
    """Pack one tree with one advantage per leaf, in the order of `Tree.leaves`."""
    trie = _Trie()
    last_token = {ROOT: trie.extend(-1, tree.prompt_ids)[-1]}
    targets = []
    groups = tree.groups()
    nodes = [i for i in tree.top_down() if i != ROOT and i in groups]
    for i in nodes:
        tokens = trie.extend(last_token[tree.nodes[i].parent], tree.nodes[i].token_ids)
        last_token[i] = tokens[-1]
        targets.extend(tokens)
    order, rank = trie.depth_first()
    parents = np.array(trie.parents)[order]
    parents = np.where(parents >= 0, rank[parents], -1)
    targets = rank[np.array(targets, np.int64)]

    lengths = [len(tree.nodes[i].token_ids) for i in nodes]
    below = [advantages[groups[i]] for i in nodes]
    return PackedTree(
        token_ids=np.array(trie.token_ids, np.int64)[order],
        positions=np.array(trie.positions, np.int64)[order],
        subtree_ends=_subtree_ends(parents),
        targets=targets,
        predecessors=parents[targets],
        sampled_logprobs=np.concatenate([tree.logprobs(i) for i in nodes]),
        positive=np.repeat([np.maximum(a, 0).sum() for a in below], lengths),
        negative=np.repeat([np.minimum(a, 0).sum() for a in below], lengths),
        num_leaves=np.repeat([len(a) for a in below], lengths),
    )


def num_distinct(tree: Tree) -> int:
    """Distinct tokens below the prompt: those of the nodes, with siblings that begin alike merged."""
    trie = _Trie()
    last_token = {ROOT: trie.extend(-1, tree.prompt_ids)[-1]}
    for i in tree.top_down():
        if i != ROOT:
            last_token[i] = trie.extend(last_token[tree.nodes[i].parent], tree.nodes[i].token_ids)[-1]
    return len(trie.token_ids) - len(tree.prompt_ids)


def join(trees: Sequence[PackedTree]) -> TreeBatch:
    """Lay packed trees side by side."""
    sizes = [tree.num_tokens for tree in trees]
    offsets = np.concatenate([[0], np.cumsum(sizes)])

    def shifted(name: str) -> np.ndarray:
        return np.concatenate([getattr(tree, name) + offset for tree, offset in zip(trees, offsets, strict=False)])

    def plain(name: str) -> np.ndarray:
        return np.concatenate([getattr(tree, name) for tree in trees])

    packed = PackedTree(
        token_ids=plain("token_ids"),
        positions=plain("positions"),
        subtree_ends=shifted("subtree_ends"),
        targets=shifted("targets"),
        predecessors=shifted("predecessors"),
        sampled_logprobs=plain("sampled_logprobs"),
        positive=plain("positive"),
        negative=plain("negative"),
        num_leaves=plain("num_leaves"),
    )
    return TreeBatch(offsets.tolist(), packed)


def micro_batches(trees: Sequence[PackedTree], max_tokens: int) -> list[TreeBatch]:
    """Join trees, in their order, into batches of at most `max_tokens` packed tokens; a larger tree stands alone."""
    batches: list[list[PackedTree]] = []
    room = 0
    for tree in trees:
        if not batches or tree.num_tokens > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(tree)
        room -= tree.num_tokens
    return [join(batch) for batch in batches]


class _Trie:
    """Distinct tokens of a tree, each below its predecessor."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.parents: list[int] = []
        self.positions: list[int] = []
        self.known: dict[tuple[int, int], int] = {}

    def extend(self, parent: int, token_ids: np.ndarray) -> list[int]:
        """Indices of these tokens below `parent`, those that are there already or new ones."""
        indices = []
        for token in token_ids.tolist():
            index = self.known.setdefault((parent, token), len(self.token_ids))
            if index == len(self.token_ids):
                self.token_ids.append(token)
                self.parents.append(parent)
                self.positions.append(self.positions[parent] + 1 if parent >= 0 else 0)
            indices.append(index)
            parent = index
        return indices

    def depth_first(self) -> tuple[np.ndarray, np.ndarray]:
        """(order, rank): indices in depth-first order, and where each index comes in it."""
        children: list[list[int]] = [[] for _ in self.parents]
        for index, parent in enumerate(self.parents[1:], start=1):
            children[parent].append(index)
        order, stack = [], [0]
        while stack:
            index = stack.pop()
            order.append(index)
            stack.extend(reversed(children[index]))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return np.array(order), rank


def _subtree_ends(parents: np.ndarray) -> np.ndarray:
    """One past the last descendant of each token, from the parents in depth-first order."""
    ends = list(range(1, len(parents) + 1))
    for index in range(len(parents) - 1, 0, -1):
        parent = parents[index]
        ends[parent] = max(ends[parent], ends[index])
    return np.array(ends, np.int64)

"""PrefixTrie: the distinct tokens of some trajectories, each below its predecessor, in depth-first order.

Its nodes are pieces of sequences that were new when they were added. Unlike the engine's prefix cache it never splits a
node: children hang below any token of it, so that a place in it stays where it is.
Letters: T distinct tokens.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from treepo.utils.numeric import common_prefix_len


class Cursor(NamedTuple):
    """The place after `offset` tokens of a node."""

    node: int
    offset: int


class Span(NamedTuple):
    """Tokens `start` to `end` - 1 of a node."""

    node: int
    start: int
    end: int


START = Cursor(0, 0)


@dataclass(eq=False)
class TrieNode:
    """Consecutive tokens below a place in another node; None for the first node. children: (offset, node) of those
    below it."""

    token_ids: np.ndarray
    parent: Cursor | None
    children: list[tuple[int, int]] = field(default_factory=list)


class PrefixTrie:
    """Sequences merged where they begin alike; all begin with the same token."""

    def __init__(self) -> None:
        self.nodes: list[TrieNode] = []
        self.by_token: dict[tuple[Cursor, int], int] = {}

    def extend(self, cursor: Cursor, ids: np.ndarray) -> tuple[list[Span], Cursor]:
        """Follow tokens from a place, adding those that are not there; return their spans, and where they end."""
        spans = []
        if not self.nodes and len(ids):
            self.nodes.append(TrieNode(ids, None))
        while len(ids):
            node, offset = cursor
            common = common_prefix_len(self.nodes[node].token_ids[offset:], ids)
            if common:
                spans.append(Span(node, offset, offset + common))
                cursor, ids = Cursor(node, offset + common), ids[common:]
            else:
                cursor = Cursor(self._child(cursor, ids), 0)
        return spans, cursor

    def _child(self, cursor: Cursor, ids: np.ndarray) -> int:
        """The node below a place that begins with the first of these tokens, added if it is not there."""
        key = cursor, int(ids[0])
        if key not in self.by_token:
            self.by_token[key] = len(self.nodes)
            self.nodes[cursor.node].children.append((cursor.offset, len(self.nodes)))
            self.nodes.append(TrieNode(ids, cursor))
        return self.by_token[key]

    @property
    def num_tokens(self) -> int:
        """Distinct tokens."""
        return sum(len(node.token_ids) for node in self.nodes)

    def layout(self) -> "TrieLayout":
        """Return all tokens in depth-first order."""
        order, stack = [], [0]
        while stack:
            order.append(index := stack.pop())
            # The last one on the stack comes next: the child that hangs deepest, and of several there the first.
            children = self.nodes[index].children
            stack.extend(child for _, child in sorted(children, key=lambda at: (at[0], -at[1])))
        lengths = np.array([len(self.nodes[index].token_ids) for index in order])
        starts = np.empty(len(order), np.int64)
        starts[order] = np.cumsum(lengths) - lengths
        token_ids = np.concatenate([self.nodes[index].token_ids for index in order]).astype(np.int64)
        positions, parents = np.empty(self.num_tokens, np.int64), np.arange(-1, self.num_tokens - 1)
        subtree_ends, path, path_len = np.full_like(positions, self.num_tokens), np.empty_like(positions), 0
        for index in order:
            node, first = self.nodes[index], int(starts[index])
            if node.parent is not None:
                parents[first] = starts[node.parent.node] + node.parent.offset - 1
            depth = 0 if node.parent is None else int(positions[parents[first]]) + 1
            # What the path before had from here on down ends where this node begins.
            subtree_ends[path[depth:path_len]] = first
            path_len = depth + len(node.token_ids)
            path[depth:path_len] = np.arange(first, first + len(node.token_ids))
            positions[path[depth:path_len]] = np.arange(depth, path_len)
        return TrieLayout(token_ids, positions, subtree_ends, parents, starts)


@dataclass(frozen=True, eq=False)
class TrieLayout:
    """Tokens in depth-first order, all int64 [T]: ids, depths, one past the last token at or below each, and the token
    above each (-1 for the first). starts: per node, where it begins."""

    token_ids: np.ndarray
    positions: np.ndarray
    subtree_ends: np.ndarray
    parents: np.ndarray
    starts: np.ndarray

    def indices(self, spans: list[Span]) -> np.ndarray:
        """Return where the tokens of some spans lie."""
        return np.concatenate([np.arange(self.starts[node] + a, self.starts[node] + b) for node, a, b in spans])

"""The prefix cache: a radix tree whose nodes hold tokens and the slots of their keys and values.

All requests share their common prefixes: each token is stored once, and a node is split where two sequences part. A
node knows the groups whose requests have used it, and is freed with the last of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

import numpy as np

from treepo.engine.torch.kv_cache import BlockManager, blocks_of
from treepo.utils.numeric import common_prefix_len


@dataclass(eq=False, slots=True)
class RadixNode:
    """Consecutive tokens and their slots, int32 [n]; the root has none.

    children: by their first token. groups: those with a request whose tokens run through it, among them all groups of
    its children. ref_count: running requests whose prefix ends at or below it; last_used: when one was acquired or
    released last.
    """

    token_ids: np.ndarray
    slots: np.ndarray
    parent: "RadixNode | None"
    children: dict[int, "RadixNode"] = field(default_factory=dict)
    groups: set[int] = field(default_factory=set)
    ref_count: int = 0
    last_used: int = 0

    @property
    def last_slot(self) -> int:
        """The slot of its last token; -1 for the root."""
        return int(self.slots[-1]) if len(self.slots) else -1

    def path(self) -> "Iterator[RadixNode]":
        """Yield this node and those above it, up to the root."""
        node: RadixNode | None = self
        while node is not None:
            yield node
            node = node.parent

    def descendants(self) -> "list[RadixNode]":
        """Return all nodes below this one."""
        found, stack = [], list(self.children.values())
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(node.children.values())
        return found


EMPTY = np.zeros(0, np.int32)


class PrefixCache:
    """The radix tree over a set of blocks."""

    def __init__(self, blocks: BlockManager) -> None:
        self.blocks = blocks
        self.root = RadixNode(EMPTY, EMPTY, None)
        self.clock = 0

    def match(self, ids: np.ndarray) -> tuple[RadixNode, int]:
        """Return (the node with which the longest cached prefix of `ids` ends, its length); may split a node."""
        node, num_cached = self.root, 0
        while num_cached < len(ids) and (child := node.children.get(int(ids[num_cached]))):
            shared = common_prefix_len(child.token_ids, ids[num_cached:])
            num_cached += shared
            if shared < len(child.token_ids):
                return self._split(child, shared), num_cached
            node = child
        return node, num_cached

    def add_child(self, node: RadixNode, ids: np.ndarray, slots: np.ndarray) -> RadixNode:
        """Return a new node below another; it takes over the references to the blocks of its slots. A group has to join
        it."""
        child = RadixNode(ids, slots, node, last_used=self.clock)
        node.children[int(ids[0])] = child
        return child

    def insert(self, node: RadixNode, ids: np.ndarray, slots: np.ndarray, group: int) -> None:
        """Cache a group's tokens below a node; those that are cached already keep the slots they have."""
        while len(ids) and (child := node.children.get(int(ids[0]))):
            shared = common_prefix_len(child.token_ids, ids)
            node = self._split(child, shared) if shared < len(child.token_ids) else child
            ids, slots = ids[shared:], slots[shared:]
        if len(ids):
            self.blocks.incref(blocks_of(slots))
            node = self.add_child(node, ids, slots)
        self.join(node, group)

    def join(self, node: RadixNode, group: int) -> None:
        """Keep a node and those above it until the group is removed."""
        for above in node.path():
            if group in above.groups:
                return
            above.groups.add(group)

    def slots_of(self, node: RadixNode) -> np.ndarray:
        """Return int32: the slots of all tokens from the root to the end of a node."""
        return np.concatenate([above.slots for above in node.path()][::-1])

    def acquire(self, node: RadixNode, count: int = 1) -> None:
        """Add a reference to a node and those above it: they are not evicted."""
        self.clock += 1
        for above in node.path():
            above.ref_count += count
            above.last_used = self.clock

    def release(self, node: RadixNode) -> None:
        """Remove a reference."""
        self.acquire(node, -1)

    def evict(self, num_blocks: int) -> bool:
        """Evict the least recently used nodes without references until so many blocks are free.

        Returns False, and evicts nothing, if all of them together would not do.
        """
        unused = [node for node in self.root.descendants() if node.ref_count == 0]
        if self.blocks.num_free + len(self._blocks_only_in(unused)) < num_blocks:
            return False
        leaves = [(node.last_used, i, node) for i, node in enumerate(unused) if not node.children]
        heapify(leaves)
        while self.blocks.num_free < num_blocks and leaves:
            _, i, node = heappop(leaves)
            parent = node.parent
            assert parent is not None
            self.blocks.free(blocks_of(node.slots))
            del parent.children[int(node.token_ids[0])]
            if not parent.children and parent.ref_count == 0 and parent.parent is not None:
                heappush(leaves, (parent.last_used, i, parent))
        return self.blocks.num_free >= num_blocks

    def _blocks_only_in(self, nodes: list[RadixNode]) -> np.ndarray:
        """The blocks to which only these nodes refer."""
        in_nodes = np.concatenate([EMPTY, *(blocks_of(node.slots) for node in nodes)])
        blocks, counts = np.unique(in_nodes, return_counts=True)
        return blocks[self.blocks.ref_counts[blocks.astype(np.int64)] == counts]

    def remove_group(self, group: int) -> None:
        """Forget what only this group has used; none of its requests may be running."""
        self.root.groups.discard(group)
        nodes = [self.root]
        while nodes:
            node = nodes.pop()
            members = [child for child in node.children.values() if group in child.groups]
            for child in members:
                child.groups.remove(group)
                if not child.groups:
                    assert child.ref_count == 0, "a running request still needs this"
                    self.blocks.free(blocks_of(child.slots))
                    del node.children[int(child.token_ids[0])]
            nodes += members

    def clear(self) -> None:
        """Forget all groups; no request may be running."""
        for group in list(self.root.groups):
            self.remove_group(group)

    def _split(self, node: RadixNode, offset: int) -> RadixNode:
        """Cut a node in two after `offset` tokens and return the new upper one; both refer to a block on the cut."""
        assert 0 < offset < len(node.token_ids) and node.parent is not None
        upper = replace(
            node, token_ids=node.token_ids[:offset], slots=node.slots[:offset], children={}, groups=set(node.groups)
        )
        node.parent.children[int(upper.token_ids[0])] = upper
        self.blocks.incref(np.intersect1d(blocks_of(node.slots[:offset]), blocks_of(node.slots[offset:])))
        node.token_ids, node.slots, node.parent = node.token_ids[offset:], node.slots[offset:], upper
        upper.children[int(node.token_ids[0])] = node
        return upper

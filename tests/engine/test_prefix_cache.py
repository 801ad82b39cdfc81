"""BlockManager and the prefix cache, against a dictionary of cached prefixes."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.engine.torch.kv_cache import BLOCK, BlockManager, blocks_of, spans_of
from treepo.engine.torch.prefix_cache import PrefixCache


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_known_keeps_its_slots(data: st.DataObject) -> None:
    """However sequences part and groups go: each known prefix is found whole, at slots of its own, until the last
    group that used it is removed; then its blocks come back."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    blocks = BlockManager(500)
    cache = PrefixCache(blocks)
    known: dict[tuple[int, ...], int] = {}
    users: dict[tuple[int, ...], set[int]] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        group = int(rng.integers(3))
        if rng.random() < 0.2:
            cache.remove_group(group)
            users = {ids: left for ids, groups in users.items() if (left := groups - {group})}
            known = {ids: slot for ids, slot in known.items() if ids in users}
            check(cache, blocks)
            continue
        ids = rng.integers(3, size=rng.integers(1, 14)).astype(np.int32)
        prefixes = [tuple(ids[: n + 1].tolist()) for n in range(len(ids))]
        node, num_cached = cache.match(ids)
        assert num_cached == sum(prefix in known for prefix in prefixes)
        if num_cached < len(ids):
            after = node.last_slot
            needed = blocks.num_needed(after, len(ids) - num_cached)
            before = blocks.num_used
            slots = blocks.append_slots(after, len(ids) - num_cached)
            assert blocks.num_used - before == needed
            node = cache.add_child(node, ids[num_cached:], slots)
            known.update(zip(prefixes[num_cached:], slots.tolist(), strict=True))
        cache.join(node, group)
        for prefix in prefixes:
            users.setdefault(prefix, set()).add(group)
        assert cache.slots_of(node).tolist() == [known[prefix] for prefix in prefixes]
        assert len(set(known.values())) == len(known), "two tokens in one slot"
        check(cache, blocks)
    cache.clear()
    assert blocks.num_used == 0


def check(cache: PrefixCache, blocks: BlockManager) -> None:
    """Each block is held once by every node that lies in it."""
    nodes = cache.root.descendants()
    assert all(node.groups for node in nodes)
    held = Counter(b for node in nodes for b in blocks_of(node.slots).tolist())
    assert [int(blocks.ref_counts[b]) for b in range(blocks.num_created)] == [
        held[b] for b in range(blocks.num_created)
    ]


def test_what_is_known_already_is_not_kept_twice() -> None:
    """Two siblings that decoded the same tokens: the second's slots are let go."""
    blocks = BlockManager(10)
    cache = PrefixCache(blocks)
    root = cache.root
    ids = np.arange(8, dtype=np.int32)
    for _ in range(2):
        slots = blocks.append_slots(-1, 8)
        cache.insert(root, ids, slots, group=0)
        blocks.free(blocks_of(slots))
    assert blocks.num_used == 1
    slots = np.append(np.arange(4), 40).astype(np.int32) + 100
    cache.insert(root, np.append(ids[:4], 9).astype(np.int32), slots, group=0)
    assert sorted(len(node.token_ids) for node in root.descendants()) == [1, 4, 4]


def test_what_is_in_use_is_not_forgotten() -> None:
    """Eviction takes leaves that nobody uses, the least recently used first, and their ancestors after them."""
    blocks = BlockManager(6)
    cache = PrefixCache(blocks)
    ends = []
    for first in range(3):
        slots = blocks.append_slots(-1, 16)
        ends.append(cache.add_child(cache.root, np.full(16, first, np.int32), slots))
    cache.acquire(ends[0])
    for end in (ends[2], ends[1]):
        cache.acquire(end)
        cache.release(end)
    assert blocks.num_free == 0
    assert cache.evict(1)
    assert cache.match(np.full(16, 2, np.int32))[1] == 0, "used before the second"
    assert cache.match(np.full(16, 1, np.int32))[1] == 16
    assert not cache.evict(5)
    assert cache.match(np.full(16, 1, np.int32))[1] == 16, "nothing is forgotten in vain"
    assert cache.evict(4)
    assert cache.match(np.zeros(16, np.int32))[1] == 16
    assert cache.match(np.full(16, 1, np.int32))[1] == 0


def test_what_leads_nowhere_any_more_is_forgotten_too() -> None:
    """A chain of three nodes goes from its end; what is in use above it stays."""
    blocks = BlockManager(8)
    cache = PrefixCache(blocks)
    node, nodes = cache.root, []
    for token in range(4):
        slots = blocks.append_slots(-1, 2 * BLOCK)
        node = cache.add_child(node, np.full(2 * BLOCK, token, np.int32), slots)
        nodes.append(node)
    cache.acquire(nodes[0])
    assert cache.evict(6)
    assert cache.root.descendants() == [nodes[0]]
    assert not cache.evict(7)


@given(st.lists(st.integers(0, 200), min_size=0, max_size=60, unique=True))
def test_spans_are_the_slots(slots: list[int]) -> None:
    """In their order, consecutive ones together, none across the end of a block."""
    starts, counts = spans_of(np.array(slots, np.int32))
    assert [s + i for s, n in zip(starts.tolist(), counts.tolist(), strict=True) for i in range(n)] == slots
    assert all(s // BLOCK == (s + n - 1) // BLOCK for s, n in zip(starts.tolist(), counts.tolist(), strict=True))
    pairs = list(zip(starts.tolist(), counts.tolist(), strict=True))
    assert all(b != a + n or b % BLOCK == 0 for (a, n), (b, _) in pairwise(pairs))


def test_a_block_is_freed_once() -> None:
    blocks = BlockManager(4)
    block = np.array([blocks.allocate()])
    blocks.free(block)
    with pytest.raises(AssertionError, match="freed twice"):
        blocks.free(block)

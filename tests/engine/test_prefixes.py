"""Blocks and what is known of each group, against a dictionary of prefixes."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.engine.torch.kv_cache import BLOCK, Blocks, blocks_of, extents_of
from treepo.engine.torch.prefix_cache import PrefixCache, below


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_known_keeps_its_slots(data: st.DataObject) -> None:
    """However sequences part: each known prefix is found whole, at slots of its own, and all blocks come back."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    blocks = Blocks(500)
    prefixes = PrefixCache(blocks)
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        group = int(rng.integers(2))
        ids = rng.integers(3, size=rng.integers(1, 14)).astype(np.int32)
        longest = max((n for n in range(len(ids) + 1) if n == 0 or (group, tuple(ids[:n])) in known), default=0)
        run, num_known = prefixes.match(group, ids)
        assert num_known == longest
        if num_known < len(ids):
            after = int(run.slots[-1]) if len(run.slots) else -1
            needed = blocks.num_needed(after, len(ids) - num_known)
            before = blocks.num_used
            slots = blocks.append(after, len(ids) - num_known)
            assert blocks.num_used - before == needed
            run = prefixes.attach(run, ids[num_known:], slots)
            known.update({(group, tuple(ids[: n + 1])): int(slots[n - num_known]) for n in range(num_known, len(ids))})
        assert prefixes.slots_of(run).tolist() == [known[group, tuple(ids[: n + 1])] for n in range(len(ids))]
        check(prefixes, blocks)
    assert len(set(known.values())) == len(known), "two tokens in one slot"
    for group in (0, 1):
        prefixes.drop(group)
    assert blocks.num_used == 0


def check(prefixes: PrefixCache, blocks: Blocks) -> None:
    """Each block is held once by every run that lies in it."""
    held = Counter(b for root in prefixes.groups.values() for run in below(root) for b in blocks_of(run.slots).tolist())
    assert [int(blocks.holders[b]) for b in range(blocks.num_made)] == [held[b] for b in range(blocks.num_made)]


def test_what_is_known_already_is_not_kept_twice() -> None:
    """Two siblings that decoded the same tokens: the second's slots are let go."""
    blocks = Blocks(10)
    prefixes = PrefixCache(blocks)
    root, _ = prefixes.match(0, np.array([1], np.int32))
    ids = np.arange(8, dtype=np.int32)
    for _ in range(2):
        slots = blocks.append(-1, 8)
        prefixes.insert(root, ids, slots)
        blocks.release(blocks_of(slots))
    assert blocks.num_used == 1
    prefixes.insert(root, np.append(ids[:4], 9).astype(np.int32), np.append(np.arange(4), 40).astype(np.int32) + 100)
    assert sorted(len(run.token_ids) for run in below(root)) == [1, 4, 4]


def test_what_is_in_use_is_not_forgotten() -> None:
    """Eviction takes leaves that nobody uses, the least recently used first, and their ancestors after them."""
    blocks = Blocks(6)
    prefixes = PrefixCache(blocks)
    ends = []
    for first in range(3):
        run, _ = prefixes.match(0, np.array([first], np.int32))
        slots = blocks.append(-1, 16)
        ends.append(prefixes.attach(run, np.full(16, first, np.int32), slots))
    prefixes.use(ends[0], 1)
    for end in (ends[2], ends[1]):
        prefixes.use(end, 1)
        prefixes.use(end, -1)
    assert blocks.num_left == 0
    assert prefixes.evict(1)
    assert prefixes.match(0, np.full(16, 2, np.int32))[1] == 0, "used before the second"
    assert prefixes.match(0, np.full(16, 1, np.int32))[1] == 16
    assert not prefixes.evict(5)
    assert prefixes.match(0, np.full(16, 1, np.int32))[1] == 16, "nothing is forgotten in vain"
    assert prefixes.evict(4)
    assert prefixes.match(0, np.zeros(16, np.int32))[1] == 16
    assert prefixes.match(0, np.full(16, 1, np.int32))[1] == 0


def test_what_leads_nowhere_any_more_is_forgotten_too() -> None:
    """A chain of three runs goes from its end; what is in use above it stays."""
    blocks = Blocks(8)
    prefixes = PrefixCache(blocks)
    run, _ = prefixes.match(0, np.array([1], np.int32))
    runs = []
    for token in range(4):
        slots = blocks.append(-1, 2 * BLOCK)
        run = prefixes.attach(run, np.full(2 * BLOCK, token, np.int32), slots)
        runs.append(run)
    prefixes.use(runs[0], 1)
    assert prefixes.evict(6)
    assert below(prefixes.groups[0]) == [runs[0]]
    assert not prefixes.evict(7)


@given(st.lists(st.integers(0, 200), min_size=0, max_size=60, unique=True))
def test_extents_are_the_slots(slots: list[int]) -> None:
    """In their order, consecutive ones together, none across the end of a block."""
    starts, counts = extents_of(np.array(slots, np.int32))
    assert [s + i for s, n in zip(starts.tolist(), counts.tolist(), strict=True) for i in range(n)] == slots
    assert all(s // BLOCK == (s + n - 1) // BLOCK for s, n in zip(starts.tolist(), counts.tolist(), strict=True))
    pairs = list(zip(starts.tolist(), counts.tolist(), strict=True))
    assert all(b != a + n or b % BLOCK == 0 for (a, n), (b, _) in pairwise(pairs))


def test_a_block_is_released_once() -> None:
    blocks = Blocks(4)
    block = np.array([blocks.take()])
    blocks.release(block)
    with pytest.raises(AssertionError, match="released twice"):
        blocks.release(block)

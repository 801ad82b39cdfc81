"""Which trajectory is resumed, and where it is cut."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grow.scripts import NotedEngine, World
from treepo.grow import Cut, Finished, InitialFork, Level, RandomBoundary, TreeShape
from treepo.tree import ROOT, StopReason

USABLE = (StopReason.ANSWER, StopReason.EOS)
UNUSABLE = tuple(set(StopReason) - set(USABLE))

finished_lists = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(StopReason)), min_size=1, max_size=8).map(
    lambda rows: [Finished(i + 1, length, stop) for i, (length, stop) in enumerate(rows)]
)


@given(finished_lists, st.integers(1, 9), st.integers(0, 2**32))
def test_cuts_are_segment_boundaries_of_each_usable_trajectory(
    finished: list[Finished], segment_len: int, seed: int
) -> None:
    """Each once, strictly before its end; from the prompt when nothing ended with an answer or EOS."""
    cuts = RandomBoundary()(finished, TreeShape(segment_len=segment_len), np.random.default_rng(seed))
    usable = {f.leaf: f for f in finished if f.stop in USABLE}
    if not usable:
        assert cuts == [Cut(ROOT, 0)]
        return
    assert sorted(c.leaf for c in cuts) == sorted(usable)
    for cut in cuts:
        assert cut.keep % segment_len == 0
        assert 0 <= cut.keep < usable[cut.leaf].response_len


@pytest.mark.parametrize("length", [1, 8, 9, 32, 33, 40])
def test_the_number_of_dropped_windows_is_uniform(length: int) -> None:
    """n = ceil(L / l) windows, k ~ U{1..n} dropped: each boundary, and the prompt too, has probability 1 / n."""
    rng, num = np.random.default_rng(length), 4000
    windows = ceil(length / 8)
    keeps = Counter(
        RandomBoundary()([Finished(1, length, StopReason.EOS)], TreeShape(segment_len=8), rng)[0].keep
        for _ in range(num)
    )
    assert sorted(keeps) == [8 * i for i in range(windows)]
    error = np.sqrt((1 - 1 / windows) / windows / num)
    assert all(abs(n / num - 1 / windows) <= 4 * error for n in keeps.values())


def test_trajectories_come_in_uniform_order() -> None:
    """Each of the 6 orders of 3 usable trajectories is as likely as any other, long or short."""
    finished = [Finished(i, length, USABLE[i % 2]) for i, length in ((1, 3), (2, 40), (3, 90))]
    finished.insert(1, Finished(9, 5, StopReason.DEPTH))
    rng, num = np.random.default_rng(0), 6000
    orders = Counter(tuple(c.leaf for c in RandomBoundary()(finished, TreeShape(), rng)) for _ in range(num))
    assert len(orders) == 6
    assert all(abs(n / num - 1 / 6) < 4 * np.sqrt(5 / 36 / num) for n in orders.values())


def test_cuts_of_different_trajectories_are_drawn_apart() -> None:
    """The boundaries of two equal trajectories are independent."""
    finished = [Finished(i, 16, StopReason.EOS) for i in (1, 2)]
    rng, num = np.random.default_rng(2), 4000
    pairs = Counter(
        tuple(c.keep for c in sorted(RandomBoundary()(finished, TreeShape(segment_len=8), rng), key=lambda c: c.leaf))
        for _ in range(num)
    )
    assert len(pairs) == 4
    assert all(abs(n / num - 1 / 4) < 4 * np.sqrt(3 / 16 / num) for n in pairs.values())


@pytest.mark.parametrize("stop", UNUSABLE)
def test_what_did_not_end_by_itself_is_not_resumed(stop: StopReason) -> None:
    """Trajectories that were cut off by length, depth or repetition are left alone, even as the only ones."""
    rng = np.random.default_rng(0)
    finished = [Finished(1, 30, stop), Finished(2, 30, stop)]
    assert {c for _ in range(50) for c in RandomBoundary()(finished, TreeShape(), rng)} == {Cut(ROOT, 0)}


@dataclass(frozen=True)
class Keeping:
    """A fallback to the first trajectory after a given number of tokens."""

    keep: int

    def __call__(self, finished: Sequence[Finished], shape: TreeShape, rng: np.random.Generator) -> list[Cut]:
        return [Cut(finished[0].leaf, self.keep)]


def unbranched(level: Level, rng: np.random.Generator) -> list[int]:
    """One child each."""
    return [1] * level.num_active


def resumed(shape: TreeShape, keep: int) -> tuple[list[int], list[int], list[list[int]]]:
    """Kept tokens and bounds of the requests of the first fallback, and the nodes' sizes on each path in the end.

    The first path runs into the deepest level or the longest response.
    """
    engine = NotedEngine(lambda ids, seed: (3, -1.0))
    tree = World(shape, InitialFork(1, 1)).grow(engine, "p", fallback=Keeping(keep), branching=unbranched)
    later = [r for r in engine.requests if r.seed != engine.requests[0].seed]
    first = [r for r in later if len(r.prefix_ids) == len(later[0].prefix_ids)]
    sizes = [[len(tree.nodes[i].token_ids) for i in t.nodes] for t in tree.trajectories()]
    return [len(r.prefix_ids) - 1 for r in first], [r.max_new_tokens for r in first], sizes


def test_a_cut_without_room_for_a_segment_moves_to_the_last_boundary() -> None:
    """If ceil(cut / l) >= d, the cut is at l (d - 1)."""
    shape = TreeShape(width=3, depth=3, segment_len=4, num_children=1)
    assert resumed(shape, keep=11) == ([8, 8], [4, 4], [[4, 4, 4]] * 3)
    assert resumed(shape, keep=9)[0] == [8, 8]
    assert resumed(shape, keep=8)[0] == [8, 8]
    assert resumed(shape, keep=7)[0] == [7, 7]
    one_segment = TreeShape(width=3, depth=1, segment_len=4, num_children=1)
    assert resumed(one_segment, keep=3) == ([0, 0], [4, 4], [[4]] * 3)


def test_a_cut_inside_a_segment_splits_it() -> None:
    """What is kept is held once; the new paths start right after it and stay within the longest response."""
    shape = TreeShape(width=3, depth=3, segment_len=4, num_children=2)
    kept, bounds, sizes = resumed(shape, keep=6)
    assert (kept, bounds) == ([6, 6], [4, 4])
    assert sorted(sizes) == [[4, 2, 2, 4], [4, 2, 4], [4, 2, 4]]
    shape = TreeShape(width=2, depth=3, segment_len=4, num_children=2, max_response_len=9)
    assert resumed(shape, keep=7)[:2] == ([7], [2])


def test_each_fallback_forks_what_is_missing_up_to_the_number_of_children() -> None:
    """min(b, w - F) from each cut, in the given order, until all are placed."""
    calls = []

    def fallback(finished: Sequence[Finished], shape: TreeShape, rng: np.random.Generator) -> list[Cut]:
        calls.append([f.leaf for f in finished])
        return [Cut(finished[0].leaf, 4), Cut(finished[1].leaf, 8), Cut(finished[0].leaf, 0)]

    engine = NotedEngine(lambda ids, seed: (seed % 4, -1.0))
    shape = TreeShape(width=12, depth=3, segment_len=4, num_children=3)
    world = World(shape, InitialFork(2, 2))
    tree = world.grow(engine, "p", fallback=fallback, branching=unbranched)
    assert len(calls) == 2, "asked again when its cuts were used up"
    assert calls[0] == calls[1] == tree.leaves()[:2]
    level = engine.requests[6:16]
    assert [len(r.prefix_ids) - 1 for r in level] == [4, 4, 4, 8, 8, 8, 0, 0, 0, 4]
    assert len({r.seed for r in level}) == 10
    assert [r.prefix_ids.tolist() for r in level[:3]] == [tree.ids(tree.leaves()[0])[:5].tolist()] * 3
    assert [r.prefix_ids.tolist() for r in level[3:6]] == [tree.ids(tree.leaves()[1])[:9].tolist()] * 3

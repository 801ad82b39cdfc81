"""Which trajectory is resumed, and where it is cut."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grow.scripts import NotedEngine, World, worlds
from treepo.grow.branching import InitialFork, Level
from treepo.grow.fallback import Backtrack, BacktrackPoint, FinishedPath, NoFallback
from treepo.grow.shape import TreeShape
from treepo.tree import ROOT, TURN_STOPS, StopReason

pytestmark = pytest.mark.quick

USABLE = (StopReason.ANSWER, StopReason.EOS, StopReason.ENV_DONE)
SINGLE_TURN = tuple(reason for reason in StopReason if reason not in TURN_STOPS)
UNUSABLE = tuple(reason for reason in StopReason if reason not in USABLE)


def ended(leaf: int, length: int, stop: StopReason) -> FinishedPath:
    """A finished trajectory of this length."""
    return FinishedPath(leaf, stop, np.zeros(length, np.float32))


finished_lists = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(StopReason)), min_size=1, max_size=8).map(
    lambda rows: [ended(i + 1, length, stop) for i, (length, stop) in enumerate(rows)]
)


@given(finished_lists, st.integers(1, 9), st.integers(0, 2**32))
def test_cuts_are_segment_boundaries_of_each_usable_trajectory(
    finished: list[FinishedPath], segment_len: int, seed: int
) -> None:
    """Each once, strictly before its end; from the prompt when nothing ended with an answer or EOS."""
    cuts = Backtrack()(finished, TreeShape(segment_len=segment_len), np.random.default_rng(seed))
    usable = {f.leaf: f for f in finished if f.stop in USABLE}
    if not usable:
        assert cuts == [BacktrackPoint(ROOT, 0)]
        return
    assert sorted(c.leaf for c in cuts) == sorted(usable)
    for cut in cuts:
        assert cut.num_kept % segment_len == 0
        assert 0 <= cut.num_kept < usable[cut.leaf].response_len


@pytest.mark.parametrize("length", [1, 8, 9, 32, 33, 40])
def test_the_number_of_dropped_windows_is_uniform(length: int) -> None:
    """n = ceil(L / l) windows, k ~ U{1..n} dropped: each boundary, and the prompt too, has probability 1 / n."""
    rng, num = np.random.default_rng(length), 4000
    windows = ceil(length / 8)
    keeps = Counter(
        Backtrack()([ended(1, length, StopReason.EOS)], TreeShape(segment_len=8), rng)[0].num_kept for _ in range(num)
    )
    assert sorted(keeps) == [8 * i for i in range(windows)]
    error = np.sqrt((1 - 1 / windows) / windows / num)
    assert all(abs(n / num - 1 / windows) <= 4 * error for n in keeps.values())


def test_trajectories_come_in_uniform_order() -> None:
    """Each of the 6 orders of 3 usable trajectories is as likely as any other, long or short."""
    finished = [ended(i, length, USABLE[i % 2]) for i, length in ((1, 3), (2, 40), (3, 90))]
    finished.insert(1, ended(9, 5, StopReason.DEPTH))
    rng, num = np.random.default_rng(0), 6000
    orders = Counter(tuple(c.leaf for c in Backtrack()(finished, TreeShape(), rng)) for _ in range(num))
    assert len(orders) == 6
    assert all(abs(n / num - 1 / 6) < 4 * np.sqrt(5 / 36 / num) for n in orders.values())


def test_cuts_of_different_trajectories_are_drawn_apart() -> None:
    """The boundaries of two equal trajectories are independent."""
    finished = [ended(i, 16, StopReason.EOS) for i in (1, 2)]
    rng, num = np.random.default_rng(2), 4000
    pairs = Counter(
        tuple(c.num_kept for c in sorted(Backtrack()(finished, TreeShape(segment_len=8), rng), key=lambda c: c.leaf))
        for _ in range(num)
    )
    assert len(pairs) == 4
    assert all(abs(n / num - 1 / 4) < 4 * np.sqrt(3 / 16 / num) for n in pairs.values())


@pytest.mark.parametrize("stop", UNUSABLE)
def test_what_did_not_end_by_itself_is_not_resumed(stop: StopReason) -> None:
    """Trajectories that were cut off by length, depth or repetition are left alone, even as the only ones."""
    rng = np.random.default_rng(0)
    finished = [ended(1, 30, stop), ended(2, 30, stop)]
    assert {c for _ in range(50) for c in Backtrack()(finished, TreeShape(), rng)} == {BacktrackPoint(ROOT, 0)}


@dataclass(frozen=True)
class Keeping:
    """A fallback to the first trajectory after a given number of tokens."""

    keep: int

    def __call__(
        self, finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator
    ) -> list[BacktrackPoint]:
        return [BacktrackPoint(finished[0].leaf, self.keep)]


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

    def fallback(finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator) -> list[BacktrackPoint]:
        calls.append([f.leaf for f in finished])
        return [
            BacktrackPoint(finished[0].leaf, 4),
            BacktrackPoint(finished[1].leaf, 8),
            BacktrackPoint(finished[0].leaf, 0),
        ]

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


@settings(max_examples=150, deadline=None)
@given(worlds(), st.booleans())
def test_without_what_fallbacks_drew_a_tree_is_the_one_without_fallback(world: World, segment_full_trees: bool) -> None:
    """The paths that lead through no marked node are those that had grown before; nothing else is marked."""
    world = replace(world, shape=replace(world.shape, min_response_len=1))
    tree = world.grow(segment_full_trees=segment_full_trees)
    before = world.grow(fallback=NoFallback())
    marked = [i for i, node in enumerate(tree.nodes) if node.from_fallback]
    old = [t.token_ids.tolist() for t in tree.trajectories() if not set(t.nodes) & set(marked)]
    assert sorted(old) == sorted(t.token_ids.tolist() for t in before.trajectories())
    if world.shape.token_budget is None:
        assert len(marked) == len(tree.leaves()) - len(before.leaves())
    children = tree.children()
    assert all(not all(tree.nodes[i].from_fallback for i in children[tree.nodes[m].parent]) for m in marked)


SHAPE = TreeShape(segment_len=8)


def scored(*logprobs: float) -> FinishedPath:
    """A trajectory with these log-probabilities."""
    return FinishedPath(1, StopReason.EOS, np.array(logprobs, np.float32))


def leaves_in_order(fallback: Backtrack, finished: list[FinishedPath], seed: int = 0) -> list[int]:
    """Leaves in the order in which they are resumed."""
    return [cut.leaf for cut in fallback(finished, SHAPE, np.random.default_rng(seed))]


def test_all_takes_every_end() -> None:
    finished = [ended(i, 9, stop) for i, stop in enumerate(SINGLE_TURN, start=1)]
    assert sorted(leaves_in_order(Backtrack("all"), finished)) == [1, 2, 3, 4, 5]
    assert len({tuple(leaves_in_order(Backtrack("all"), finished, seed)) for seed in range(50)}) > 20


def test_the_longest_come_first() -> None:
    finished = [ended(1, 5, StopReason.DEPTH), ended(2, 50, StopReason.EOS), ended(3, 20, StopReason.LENGTH)]
    assert leaves_in_order(Backtrack("longest"), finished) == [2, 3, 1]


def test_strict_order_takes_the_best_reason_first() -> None:
    """Fault of the authors' release: "strict" order sorted worst first."""
    finished = [ended(i, 9, stop) for i, stop in enumerate(SINGLE_TURN, start=1)]
    finished.append(FinishedPath(9, StopReason.LENGTH, np.zeros(9, np.float32), is_open=True))
    by_leaf = {f.leaf: f for f in finished}
    for seed in range(5):
        order = [by_leaf[leaf] for leaf in leaves_in_order(Backtrack("by_reason"), finished, seed)]
        assert [(f.stop, f.is_open) for f in order] == [
            (StopReason.ANSWER, False),
            (StopReason.LENGTH, True),
            (StopReason.EOS, False),
            (StopReason.DEPTH, False),
            (StopReason.LENGTH, False),
            (StopReason.REPETITION, False),
        ]


def test_gumbel_noise_draws_reasons_by_softmax_of_their_rank() -> None:
    """With noise of scale 1 an answer comes before EOS, two ranks behind, with probability 1 / (1 + e^-2)."""
    finished = [ended(1, 9, StopReason.EOS), ended(2, 9, StopReason.ANSWER)]
    first = Counter(leaves_in_order(Backtrack("by_reason", noise=1.0), finished, seed)[0] for seed in range(4000))
    assert abs(first[2] / 4000 - 1 / (1 + np.exp(-2))) < 0.02


def test_long_answered_needs_an_answer_and_segments() -> None:
    finished = [ended(1, 17, StopReason.EOS), ended(2, 16, StopReason.ANSWER), ended(3, 17, StopReason.ANSWER)]
    assert leaves_in_order(Backtrack("long_answered", min_segments=3), finished) == [3]
    assert leaves_in_order(Backtrack("long_answered", min_segments=4), finished) == [ROOT]


@pytest.mark.parametrize("max_windows", [None, 1, 2, 9])
def test_windows_bound_how_far_a_cut_goes_back(max_windows: int | None) -> None:
    """20 tokens are 4 windows of 6: k ~ U{1..min(max_windows, 4)}, so 18, 12, 6 or 0 tokens are kept."""
    fallback = Backtrack(window=6, max_windows=max_windows)
    kept = Counter(
        fallback.num_kept(ended(1, 20, StopReason.EOS), SHAPE, np.random.default_rng(i)) for i in range(2000)
    )
    allowed = [18, 12, 6, 0][: max_windows or 4]
    assert set(kept) == set(allowed)
    assert all(abs(kept[k] / 2000 - 1 / len(allowed)) < 0.05 for k in allowed)


RNG = np.random.default_rng(0)


def test_the_least_likely_token_is_drawn_again() -> None:
    assert Backtrack(cut="unlikely_token").num_kept(scored(-1, -2, -7, -3), SHAPE, RNG) == 2
    assert Backtrack(cut="prompt").num_kept(scored(-1, -2, -7, -3), SHAPE, RNG) == 0


def test_blocks_are_drawn_by_their_mean() -> None:
    """Blocks of 2 with means -1 and -1 - ln 3, and a last one that is short: weights 3 : 1 : 3 toward likely ones."""
    low = -1 - np.log(3)
    trajectory = scored(-1, -1, low, low, -1)

    def drawn(cut: str) -> list[float]:
        fallback = Backtrack(cut=cut, block_len=2)
        kept = Counter(fallback.num_kept(trajectory, SHAPE, np.random.default_rng(i)) for i in range(4000))
        return [kept[k] / 4000 for k in (0, 2, 4)]

    np.testing.assert_allclose(drawn("likely_block"), [3 / 7, 1 / 7, 3 / 7], atol=0.03)
    np.testing.assert_allclose(drawn("unlikely_block"), [1 / 5, 3 / 5, 1 / 5], atol=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": -1}, "window: must be at least 1, got -1"),
        ({"block_len": 0}, "block_len: must be at least 1, got 0"),
        ({"noise": -1.0}, "noise: must not be negative, got -1.0"),
        ({"temperature": 0.0}, "temperature: must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backtrack(**settings)

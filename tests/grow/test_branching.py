"""How many children: the formula, its fences, and who gets the remainder."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.grow import EvenBranching, InitialFork, Level, TreeShape
from treepo.grow.branching import transferred_budget


def level(width: int, num_children: int, active: int, finished: int, just: int) -> Level:
    """A level of a tree of the given width and number of children."""
    return Level(TreeShape(width=width, num_children=num_children), active, finished, just)


@st.composite
def levels(draw: st.DrawFn) -> Level:
    """Levels that can happen: active and finished paths never exceed the width."""
    active, finished = draw(st.integers(1, 20)), draw(st.integers(0, 20))
    width = draw(st.integers(active + finished, 60))
    return level(width, draw(st.integers(1, 8)), active, finished, draw(st.integers(0, finished)))


@pytest.mark.parametrize(
    ("width", "b", "active", "finished", "just", "total"),
    [
        (16, 2, 2, 0, 0, 4),  # no end yet: b each
        (16, 2, 16, 0, 0, 16),  # the width is reached: 1 each
        (16, 2, 3, 1, 1, 8),  # a path that ended passes its children on
        (16, 2, 3, 1, 0, 6),  # but only at the level at which it ended
        (16, 2, 6, 2, 2, 14),  # never beyond what is missing: min(16 - 2, 2 * 8)
        (16, 2, 1, 7, 7, 9),  # all of it to the only one left
        (16, 4, 5, 0, 0, 16),
        (16, 1, 3, 5, 5, 8),  # b = 1: 1 * (3 + 5), not beyond 16 - 5
        (16, 1, 3, 10, 2, 5),
        (8, 2, 1, 7, 1, 1),
    ],
)
def test_the_budget(width: int, b: int, active: int, finished: int, just: int, total: int) -> None:
    """max(a, min(max(w - F, 0), b (a + f))), written out."""
    assert transferred_budget(level(width, b, active, finished, just)) == total


def test_active_paths_keep_one_child_each_beyond_the_width() -> None:
    """The outer maximum: a level that is too wide already goes on, and the inner maximum is never negative."""
    assert transferred_budget(level(4, 2, 6, 0, 0)) == 6
    assert transferred_budget(level(4, 2, 3, 9, 0)) == 3


@given(levels())
def test_the_tree_never_outgrows_its_width(a_level: Level) -> None:
    """Finished paths and next level's paths fit in the width, and no path is dropped."""
    total = transferred_budget(a_level)
    assert total >= a_level.num_active
    assert total + a_level.num_finished <= a_level.shape.width
    assert total <= a_level.shape.num_children * (a_level.num_active + a_level.num_just_finished)
    if total == a_level.num_active:
        no_room = a_level.num_active + a_level.num_finished == a_level.shape.width
        assert no_room or (a_level.shape.num_children == 1 and a_level.num_just_finished == 0)


@given(levels(), st.integers(0, 2**32))
def test_even_shares_are_even(a_level: Level, seed: int) -> None:
    """total // a or one more, in exactly `total % a` places."""
    counts = EvenBranching()(a_level, np.random.default_rng(seed))
    share, rest = divmod(transferred_budget(a_level), a_level.num_active)
    assert Counter(counts) == Counter([share] * (a_level.num_active - rest) + [share + 1] * rest)
    assert all(isinstance(n, int) for n in counts)


def test_the_remainder_goes_to_random_paths() -> None:
    """Documented difference: the authors' release gives the whole remainder to the last path."""
    rng = np.random.default_rng(0)
    num = 6000
    counts = np.array([EvenBranching()(level(7, 8, 4, 0, 0), rng) for _ in range(num)])
    assert counts.sum() == 7 * num
    assert counts.max() == 2, "the three left over go to three different paths"
    error = np.sqrt(0.75 * 0.25 / num)
    assert np.all(np.abs((counts - 1).mean(0) - 0.75) < 4 * error), "each path alike"
    left_out = Counter(int(row.argmin()) for row in counts)
    assert sorted(left_out) == [0, 1, 2, 3]


def test_the_remainder_is_seeded() -> None:
    """Same generator, same shares."""
    runs = [
        [EvenBranching()(level(11, 8, 4, 0, 0), rng) for _ in range(20)]
        for rng in (np.random.default_rng(3), np.random.default_rng(3), np.random.default_rng(4))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_more_initial_divergence_is_uniform_from_2_to_8() -> None:
    """Fault of the authors' release: an initial divergence of 2..8 could not be switched on."""
    rng = np.random.default_rng(1)
    num = 7000
    forks = Counter(InitialFork(2, 8)(TreeShape(width=16), rng) for _ in range(num))
    assert sorted(forks) == [2, 3, 4, 5, 6, 7, 8]
    assert all(abs(n / num - 1 / 7) < 4 * np.sqrt(6 / 49 / num) for n in forks.values())


@given(st.integers(1, 10), st.integers(1, 20), st.integers(0, 2**32))
def test_a_fixed_fork_is_fixed_and_fits(fork: int, width: int, seed: int) -> None:
    """low = high leaves no choice; never more children than trajectories wanted."""
    assert InitialFork(fork, fork)(TreeShape(width=width), np.random.default_rng(seed)) == min(fork, width)


@pytest.mark.parametrize(("low", "high"), [(0, 2), (3, 2), (-1, -1)])
def test_impossible_forks_are_refused(low: int, high: int) -> None:
    """With the range named."""
    with pytest.raises(ValueError, match=rf"{low}\.\.{high}"):
        InitialFork(low, high)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"depth": 0},
        {"segment_len": 0},
        {"num_children": 0},
        {"max_response_len": 0},
        {"depth": 2, "segment_len": 3, "max_response_len": 7},
    ],
)
def test_impossible_shapes_are_refused(wrong: dict[str, int]) -> None:
    """With the field and its value named."""
    name, value = [*wrong.items()][-1]
    with pytest.raises(ValueError, match=rf"{name}.*got {value}"):
        TreeShape(**wrong)


def test_the_longest_response_is_depth_times_segment_len() -> None:
    """Unless a shorter one is given."""
    assert TreeShape(depth=14, segment_len=512).response_limit == 7168
    assert TreeShape(depth=14, segment_len=512, max_response_len=7000).response_limit == 7000
    assert TreeShape(16, depth=1, segment_len=7168, num_children=16).response_limit == 7168

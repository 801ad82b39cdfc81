"""How many children: the formula, its fences, and who gets the remainder."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.grow.branching import (
    EvenBranching,
    InitialFork,
    Level,
    LogprobBranching,
    RandomBranching,
    TokenBudgetBranching,
    transferred_budget,
)
from treepo.grow.shape import TreeShape
from treepo.tree import Node, Tree
from treepo.utils.numeric import largest_remainder

pytestmark = pytest.mark.quick


def level(width: int, num_children: int, active: int, finished: int, just: int) -> Level:
    """A level of a tree of the given width and number of children."""
    shape = TreeShape(width=width, num_children=num_children)
    return Level(shape, Tree("p"), range(active), finished, just, depth=1)


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
    assert transferred_budget(level(width, b, active, finished, just), b) == total


def test_active_paths_keep_one_child_each_beyond_the_width() -> None:
    """The outer maximum: a level that is too wide already goes on, and the inner maximum is never negative."""
    assert transferred_budget(level(4, 2, 6, 0, 0), 2) == 6
    assert transferred_budget(level(4, 2, 3, 9, 0), 2) == 3


@given(levels())
def test_the_tree_never_outgrows_its_width(a_level: Level) -> None:
    """Finished paths and next level's paths fit in the width, and no path is dropped."""
    total = transferred_budget(a_level, a_level.shape.num_children)
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
    share, rest = divmod(transferred_budget(a_level, a_level.shape.num_children), a_level.num_active)
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


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0, 2, "low: must be at least 1, got 0"),
        (3, 2, "high: must be at least low = 3, got 2"),
        (-1, -1, "low: must be at least 1, got -1"),
    ],
)
def test_impossible_forks_are_refused(low: int, high: int, message: str) -> None:
    """With the field named."""
    with pytest.raises(ValueError, match=message):
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
    assert TreeShape(depth=14, segment_len=512).max_response_tokens == 7168
    assert TreeShape(depth=14, segment_len=512, max_response_len=7000).max_response_tokens == 7000
    assert TreeShape(16, depth=1, segment_len=7168, num_children=16).max_response_tokens == 7168


def scored_level(scores: list[list[float]], width: int, depth: int = 1, tree_depth: int = 8) -> Level:
    """A level whose active paths have one earlier segment of log-probability -1 and these in their last one."""
    tree = Tree.from_prompt("p", np.array([1]), 0)
    nodes = []
    for values in scores:
        first = tree.add(Node(0, np.array([1], np.int32), np.array([-1.0], np.float32), 0))
        nodes.append(tree.add(Node(first, np.ones(len(values), np.int32), np.array(values, np.float32), 0)))
    return Level(TreeShape(width, tree_depth, 16, 2), tree, nodes, 0, 0, depth)


RNG = np.random.default_rng(0)


@given(levels(), st.integers(0, 2**32))
def test_every_strategy_stays_within_the_width(a_level: Level, seed: int) -> None:
    """At least one child each, and never more trajectories than are missing, for all but scored ones."""
    for branching in (RandomBranching(1, 5), TokenBudgetBranching(40), EvenBranching()):
        counts = branching(a_level, np.random.default_rng(seed))
        assert len(counts) == a_level.num_active
        assert min(counts) >= 1
        assert sum(counts) <= max(a_level.num_active, a_level.shape.width - a_level.num_finished)


def test_random_branching_draws_the_number_of_children() -> None:
    totals = {sum(RandomBranching(2, 4)(level(100, 2, 5, 0, 0), np.random.default_rng(i))) for i in range(60)}
    assert totals == {10, 15, 20}


def test_a_token_budget_buys_segments() -> None:
    """100 tokens are 6 segments of 16; paths that are there already are never dropped."""
    assert sum(TokenBudgetBranching(100)(scored_level([[-1.0]] * 4, width=50), RNG)) == 6
    assert TokenBudgetBranching(100)(scored_level([[-1.0]] * 8, width=50), RNG) == [1] * 8
    assert sum(TokenBudgetBranching(10_000)(scored_level([[-1.0]] * 4, width=50), RNG)) == 50


def test_log_probability_guides_the_budget() -> None:
    """Scores -1 and -1 - ln 3 at temperature 1: the rest of 8 is shared 6 to 2 toward high, 2 to 6 toward low."""
    a_level = scored_level([[-1.0], [-1 - np.log(3)]], width=100)
    a_level = Level(TreeShape(100, 8, 16, 5), a_level.tree, a_level.nodes, 0, 0, 1)
    assert LogprobBranching("high")(a_level, RNG) == [7, 3]
    assert LogprobBranching("low")(a_level, RNG) == [3, 7]
    assert LogprobBranching("high", temperature=1e6)(a_level, RNG) == [5, 5]


def test_mean_and_sum_segment_and_path_score_differently() -> None:
    """A short unlikely segment against a long likely one: the mean favours the long one, the sum the short one."""
    a_level = scored_level([[-2.0], [-1.0] * 4], width=12)
    a_level = Level(TreeShape(12, 8, 16, 6), a_level.tree, a_level.nodes, 0, 0, 1)
    cold = {"toward": "high", "temperature": 0.01}
    assert LogprobBranching(**cold, reduction="mean")(a_level, RNG) == [1, 11]
    assert LogprobBranching(**cold, reduction="sum")(a_level, RNG) == [11, 1]
    # Over the whole path the earlier -1 counts too: means -1.5 and -1, sums -3 and -5.
    assert LogprobBranching(**cold, span="path", reduction="mean")(a_level, RNG) == [1, 11]
    assert LogprobBranching(**cold, span="path", reduction="sum")(a_level, RNG) == [11, 1]
    score = LogprobBranching(span="path")._score
    assert [score(a_level, node) for node in a_level.nodes] == [-1.5, -1.0]


@given(st.integers(0, 50), st.lists(st.floats(0.01, 10), min_size=1, max_size=12))
def test_largest_remainder_is_within_one_of_the_quota(total: int, weights: list[float]) -> None:
    shares = np.array(weights) / sum(weights)
    counts = largest_remainder(total, shares.tolist())
    assert sum(counts) == total
    assert np.all(np.abs(counts - total * shares) < 1)


def test_the_temperature_follows_half_a_cosine() -> None:
    """From 5 at the first level to 1 at the last that can fork, 3 half way."""
    branching = LogprobBranching(temperature=5.0, last_temperature=1.0)
    at = [branching.temperature_at(scored_level([[-1.0]], 8, depth, tree_depth=6)) for depth in (1, 3, 5)]
    np.testing.assert_allclose(at, [5.0, 3.0, 1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogprobBranching(temperature=-1.0), "temperature: must be positive, got -1.0"),
        (lambda: LogprobBranching(last_temperature=0.0), "last_temperature: must be positive, got 0.0"),
        (lambda: RandomBranching(3, 2), "high: must be at least low = 3, got 2"),
        (lambda: TokenBudgetBranching(0), "max_step_tokens: must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_named(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()

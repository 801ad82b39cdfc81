"""The order in which problems are asked."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.data.datasets import Mixture, epoch_indices
from treepo.utils.numeric import derive_seed, largest_remainder

weights = st.lists(st.floats(0.01, 10), min_size=1, max_size=5).map(tuple)
positions = st.integers(0, 10**12)


def test_an_epochs_order_is_the_permutation_of_its_seed():
    """The orders of runs made before there were several sets."""
    expected = np.concatenate([np.random.default_rng(derive_seed(5, "epoch", e)).permutation(7) for e in range(3)])
    assert epoch_indices(5, range(21), 7) == expected.tolist()


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(1, 9), positions, st.integers(0, 30))
def test_any_stretch_of_the_order_is_the_same_as_asked_one_by_one(seed, size, start, count):
    stretch = epoch_indices(seed, range(start, start + count), size)
    assert stretch == [epoch_indices(seed, [start + i], size)[0] for i in range(count)]


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(1, 9), st.integers(0, 10**9))
def test_every_epoch_has_each_thing_once(seed, size, epoch):
    assert sorted(epoch_indices(seed, range(epoch * size, (epoch + 1) * size), size)) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fractions(0, 1), min_size=1, max_size=6).filter(sum), st.integers(0, 10**6))
def test_seats_add_up_and_are_less_than_one_away_from_what_is_due(parts, seats):
    shares = [part / sum(parts) for part in parts]
    counts = largest_remainder(seats, shares)
    assert sum(counts) == seats
    assert all(abs(count - share * seats) < 1 for count, share in zip(counts, shares, strict=True))


def test_largest_remainders_by_hand():
    """Shares of 10 seats due 4.3, 3.3, 1.7 and 0.7: the two largest remainders get the two seats left."""
    assert largest_remainder(10, [Fraction(n, 100) for n in (43, 33, 17, 7)]) == [4, 3, 2, 1]
    assert largest_remainder(1, [Fraction(1, 2), Fraction(1, 2)]) == [1, 0]


@settings(max_examples=60, deadline=None)
@given(weights, st.integers(0, 50), positions, st.integers(0, 40))
def test_any_stretch_of_a_mixture_is_the_same_as_asked_one_by_one(weights, seed, start, count):
    mixture = Mixture(weights, seed)
    stretch = mixture.assign(range(start, start + count))
    assert stretch == [mixture.assign([start + i])[0] for i in range(count)]


@settings(max_examples=60, deadline=None)
@given(weights, st.integers(0, 50), st.integers(0, 10**9))
def test_a_mixture_keeps_its_proportions(weights, seed, block):
    """However far into the run: at a block's borders within 1 of what is due, inside within a block."""
    mixture = Mixture(weights, seed)
    size = mixture.block
    draws = mixture.assign(range(block * size, (block + 1) * size))
    for index, share in enumerate(mixture.shares):
        numbers = [number for drawn, number in draws if drawn == index]
        if not numbers:
            # Due about once in a block, it had its draw a little early and has its next one a little late.
            assert share * size < 2
            continue
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert abs(numbers[0] - share * block * size) < 1
        assert abs(numbers[-1] + 1 - share * (block + 1) * size) < 1


@settings(max_examples=40, deadline=None)
@given(weights, st.integers(0, 50), st.integers(1, 400))
def test_each_sets_draws_are_numbered_from_0_without_a_gap(weights, seed, count):
    """So each set is asked in epochs of its own, in which no problem comes twice."""
    by_set: dict[int, list[int]] = {}
    for index, number in Mixture(weights, seed).assign(range(count)):
        by_set.setdefault(index, []).append(number)
    assert all(numbers == list(range(len(numbers))) for numbers in by_set.values())


def test_the_count_of_a_set_never_falls():
    """With one seat more the largest remainder may take one back (the Alabama paradox); blocks are too long for it."""
    shares = [Fraction(n, 14) for n in (6, 6, 2)]
    assert largest_remainder(10, shares) == [4, 4, 2]
    assert largest_remainder(11, shares) == [5, 5, 1]
    mixture = Mixture((6.0, 6.0, 2.0, 0.11, 0.13))
    draws = Counter()
    for block in range(200):
        for index, number in mixture.assign(range(block * mixture.block, (block + 1) * mixture.block)):
            assert number == draws[index]
            draws[index] += 1


def test_only_the_proportions_of_weights_matter_and_seeds_differ():
    asked = range(300)
    assert Mixture((1, 3), 7).assign(asked) == Mixture((0.5, 1.5), 7).assign(asked)
    assert Mixture((1, 3), 7).assign(asked) != Mixture((1, 3), 8).assign(asked)
    first, second = (Mixture((1, 1)).assign(range(i * 64, (i + 1) * 64)) for i in range(2))
    assert [index for index, _ in first] != [index for index, _ in second]


@pytest.mark.parametrize("weights", [(), (0.0, 1.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_weights_must_be_positive(weights):
    with pytest.raises(ValueError, match="weights: must be positive numbers, got"):
        Mixture(weights)


def test_a_weight_that_is_next_to_nothing_is_refused():
    with pytest.raises(ValueError, match="weights: must each be at least 1/10000 of their sum"):
        Mixture((1.0, 1e-5))
    assert Mixture((9_999.0, 1.0)).block == 10_000

"""Bootstrap intervals against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.evaluate.estimates import mean_with_interval

VALUES = st.lists(st.sampled_from([0.0, 0.0625, 0.5, 0.9375, 1.0]), min_size=1, max_size=40)


def interval(*sets, seed=0, num_resamples=10_000):
    return mean_with_interval([np.array(s, float) for s in sets], np.random.default_rng(seed), num_resamples)


def half_widths(estimate):
    return estimate.value - estimate.low, estimate.high - estimate.value


@pytest.mark.parametrize(("num_right", "n"), [(100, 200), (375, 500), (1000, 1319), (30, 300)])
def test_the_interval_of_right_and_wrong_is_the_normal_one(num_right, n):
    """1.96 sqrt(p (1 - p) / n), but for the steps of 1 / n that the mean of 0 and 1 moves in."""
    p = num_right / n
    estimate = interval([1] * num_right + [0] * (n - num_right))
    assert estimate.value == pytest.approx(p, abs=1e-15)
    normal = 1.959964 * math.sqrt(p * (1 - p) / n)
    assert half_widths(estimate) == pytest.approx((normal, normal), rel=0.05, abs=1 / n)


def test_resampling_counts_is_resampling_problems():
    """The same distribution as drawing indices of problems, in mean and in spread."""
    values = np.random.default_rng(1).choice([0.0, 0.25, 0.8, 1.0], size=30, p=[0.4, 0.3, 0.2, 0.1])
    plain = values[np.random.default_rng(2).integers(30, size=(40_000, 30))].mean(axis=1)
    estimate = interval(values, num_resamples=40_000)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.005)


def test_the_overall_mean_weighs_every_problem_alike():
    estimate = interval([1] * 10, [0] * 90)
    assert estimate.value == 0.1


def test_sets_keep_their_sizes_when_problems_are_drawn_anew():
    """Two sets that each agree: drawing among all problems together would find a spread that there is not."""
    estimate = interval([1] * 50, [0] * 50)
    assert half_widths(estimate) == (0, 0)


def test_the_variance_over_sets_adds_up():
    a, b = [1, 0] * 100, [1, 0, 0, 0] * 100
    normal = 1.959964 * math.sqrt(200 * 0.25 + 400 * 0.1875) / 600
    assert half_widths(interval(a, b)) == pytest.approx((normal, normal), rel=0.05)


def test_answers_to_one_problem_stay_together():
    """16 equal answers to each of 40 problems say no more than one; taken apart, the interval is 4 times smaller."""
    per_problem = [1.0, 0.0] * 20
    together, apart = interval(per_problem), interval(np.repeat(per_problem, 16))
    assert sum(half_widths(together)) / sum(half_widths(apart)) == pytest.approx(4, rel=0.1)


def test_the_interval_holds_the_mean_about_as_often_as_it_says():
    """200 problems of a policy that is right with a chance of its own on each, 400 evaluations: 93% to 97%."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        values = rng.binomial(16, rng.beta(0.6, 0.4, size=200)) / 16
        estimate = mean_with_interval([values], rng, num_resamples=1000)
        held += estimate.low <= 0.6 <= estimate.high
    assert 0.93 <= held / 400 <= 0.97


@settings(max_examples=50, deadline=None)
@given(VALUES, st.randoms(use_true_random=False))
def test_an_interval_holds_its_mean_and_knows_no_order(values, random):
    estimate = interval(values, num_resamples=200)
    assert min(values) <= estimate.low <= estimate.value <= estimate.high <= max(values)
    random.shuffle(values)
    assert interval(values, num_resamples=200) == estimate


def test_the_mean_is_never_moved_for_its_interval():
    """Single resamples miss the mean on either side: the interval reaches to it, and it stays what was measured."""
    estimates = [interval([0] * 15 + [1] * 15, seed=seed, num_resamples=1) for seed in range(20)]
    assert {e.value for e in estimates} == {0.5} == {min(half_widths(e)) + 0.5 for e in estimates}
    assert any(e.low < 0.5 for e in estimates) and any(e.high > 0.5 for e in estimates)


def test_degenerate_sets():
    assert half_widths(interval([0.3] * 7)) == (0, 0)
    assert half_widths(interval([1.0])) == (0, 0)
    assert interval([], [0.5, 1.0]).value == 0.75
    with pytest.raises(ValueError, match="sets: there are no problems"):
        interval([])

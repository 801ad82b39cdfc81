"""Paths per stage, against a search through all of them."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.plan.allocation import allocate, candidate_paths, integer_allocation

pytestmark = pytest.mark.quick

POSITIVE = st.floats(0.01, 100.0)
STAGES = st.integers(1, 4).flatmap(lambda k: st.tuples(*[st.lists(POSITIVE, min_size=k, max_size=k)] * 2))


def shapes(depth: int, width: int) -> list[tuple[int, ...]]:
    return list(combinations_with_replacement(range(1, width + 1), depth))


def noise_times_cost(variances: np.ndarray, costs: np.ndarray, paths: np.ndarray) -> float:
    return float((variances / paths).sum() * (costs * paths).sum())


@given(STAGES)
def test_no_whole_numbers_beat_the_pooled_allocation(stages):
    """And numbers as large as one likes come as close to it as one likes."""
    variances, costs = map(np.array, stages)
    found = allocate(variances, costs)
    assert (np.diff(found) >= -1e-12).all()
    least = noise_times_cost(variances, costs, found)
    best = min(noise_times_cost(variances, costs, np.array(paths)) for paths in shapes(len(costs), 6))
    assert least <= best * (1 + 1e-9)
    fine = np.maximum(np.round(found / found.min() * 1000), 1)
    assert noise_times_cost(variances, costs, fine) == pytest.approx(least, rel=1e-3)


@given(STAGES)
def test_without_a_violation_it_is_the_square_root_of_the_ratio(stages):
    variances, costs = map(np.array, stages)
    order = np.argsort(variances / costs)
    variances, costs = variances[order], costs[order]
    assert allocate(variances, costs) == pytest.approx(np.sqrt(variances / costs))
    assert noise_times_cost(variances, costs, allocate(variances, costs)) == pytest.approx(
        np.sqrt(variances * costs).sum() ** 2
    )


@given(STAGES, st.floats(1e-4, 1e4), st.integers(1, 5), st.integers(1, 2))
def test_whole_numbers_are_the_best_of_all(stages, price, width, fewest):
    variances, costs = map(np.array, stages)
    fewest = min(fewest, width)

    def total(paths) -> float:
        return float((variances / np.array(paths)).sum() + price * (costs * np.array(paths)).sum())

    found = integer_allocation(variances, costs, price, width, fewest=fewest)
    assert found == sorted(found) and found[0] >= fewest and found[-1] == width
    legal = [p for p in shapes(len(costs), width) if p[0] >= fewest and p[-1] == width]
    assert total(found) == pytest.approx(min(map(total, legal)))


@given(STAGES)
def test_candidates_hold_a_shape_within_a_twentieth_of_the_best(stages):
    variances, costs = map(np.array, stages)
    every = [p for p in shapes(len(costs), 6) if p[-1] == 6]
    best = min(noise_times_cost(variances, costs, np.array(p)) for p in every)
    found = min(noise_times_cost(variances, costs, np.array(p)) for p in candidate_paths(variances, costs, 6))
    assert best <= found * (1 + 1e-12) and found <= 1.05 * best


def test_all_variance_in_the_first_stage_is_a_star():
    found = allocate(np.array([1.0, 0.0, 0.0]), np.ones(3))
    assert (found == found[0]).all()
    best = min(candidate_paths(np.array([1.0, 0, 0]), np.ones(3), 8), key=lambda p: sum(p) / p[0])
    assert best == (8, 8, 8)


def test_all_variance_in_the_last_stage_is_a_fork_at_its_beginning():
    found = allocate(np.array([0.0, 0.0, 1.0]), np.ones(3))
    assert found[:2].tolist() == [0.0, 0.0] and found[2] > 0
    assert (1, 1, 8) in candidate_paths(np.array([0.0, 0.0, 1.0]), np.ones(3), 8)


def test_stages_without_cost_have_as_many_paths_as_the_next():
    """Free stages need no sharing: they are pooled with what follows, or have no bound where all are free."""
    assert integer_allocation(np.array([1.0, 1.0]), np.array([0.0, 1.0]), 1.0, 8) == [8, 8]
    found = allocate(np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    assert found[0] == found[1] == pytest.approx(np.sqrt(2.0))
    assert np.isinf(allocate(np.array([1.0]), np.array([0.0]))).all()

"""Variance components, estimated from trees of nested models in which they are known."""

import numpy as np
import pytest

from tests.credit.exact import TinyPolicy, all_trees, value_of, values_of
from treepo.grow.branching import EvenBranching, InitialFork, RandomBranching
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack, NoFallback
from treepo.grow.planned import Planned, StagedBranching
from treepo.grow.shape import TreeShape
from treepo.plan.components import Moments, add_moments, moments_of, solve_components
from treepo.plan.noise import STOPPING, grown_skeletons
from treepo.tree import Tree

SHAPE = TreeShape(width=8, depth=4, segment_len=1)
VARIANCES = np.array([0.5, 0.0, 2.0, 1.0])


def nested_values(tree: Tree, rng: np.random.Generator, variances: np.ndarray = VARIANCES) -> np.ndarray:
    """Leaves' sums of independent increments, one per node, of the variance of its stage."""
    stages = [len(tree.path(i)) - 2 for i in range(len(tree.nodes))]
    steps = np.array([0.0, *(rng.normal() * np.sqrt(variances[k]) for k in stages[1:])])
    return 7 + np.array([steps[tree.path(leaf)].sum() for leaf in tree.leaves()])


def estimates(trees: list[Tree], num_batches: int, num_models: int) -> np.ndarray:
    """[batches, K]: signed components of batches, each of all trees with new values."""
    rng, found = np.random.default_rng(0), []
    for _ in range(num_batches):
        drawn = [moments_of(tree, nested_values(tree, rng), SHAPE) for tree in trees for _ in range(num_models)]
        found.append(solve_components(add_moments(drawn), signed=True).variances)
    return np.array(found)


CONFIGURATIONS = {
    "every level forks": (StagedBranching((2, 4, 6, 8)), NoFallback(), [1.0] * 4),
    "uneven": (RandomBranching(1, 3), NoFallback(), [1.0] * 4),
    "random levels": (Planned(), NoFallback(), [1.0] * 4),
    "early ends": (Planned(), NoFallback(), [1.0, 0.8, 0.6, 0.3]),
    "fallback": (EvenBranching(), Backtrack(), [1.0, 0.7, 0.5, 0.4]),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_components_are_found_whatever_the_shape(name):
    """Of trees that fork at every depth at least now and then; where paths end, a stage is that of those which begin
    it."""
    branching, fallback, reached = CONFIGURATIONS[name]
    trees = grown_skeletons(SHAPE, InitialFork(2, 3), branching, fallback, reached, 12)
    found = estimates(trees, num_batches=8, num_models=2)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    known = found.mean(axis=0)
    assert np.abs(known - VARIANCES).max() <= 4 * error.max()


def test_a_star_tells_the_total_alone():
    """All stages get an equal part of it."""
    star = grown_skeletons(SHAPE, InitialFork(8, 8), EvenBranching(), NoFallback(), [1.0] * 4, 1)[0]
    values = np.array([1.0, 0, 0, 1, 1, 0, 0, 0])
    found = solve_components(moments_of(star, values, SHAPE))
    assert found.total == pytest.approx(values.var(ddof=1))
    assert found.variances == pytest.approx(np.full(4, values.var(ddof=1) / 4))


def test_vectors_have_the_components_of_their_coordinates_together():
    rng = np.random.default_rng(1)
    tree = grown_skeletons(SHAPE, InitialFork(2, 2), EvenBranching(), NoFallback(), [1.0] * 4, 1)[0]
    values = rng.normal(size=(8, 3))
    whole = moments_of(tree, values, SHAPE)
    parts = [moments_of(tree, column, SHAPE) for column in values.T]
    assert whole.gains == pytest.approx(sum(part.gains for part in parts))


def test_moments_survive_their_table_and_add_up():
    rng = np.random.default_rng(2)
    trees = grown_skeletons(SHAPE, InitialFork(2, 2), Planned(), NoFallback(), [1.0, 0.8, 0.6, 0.4], 2)
    one, other = (moments_of(tree, nested_values(tree, rng), SHAPE) for tree in trees)
    assert np.array_equal((one + other).table, one.table + other.table)
    assert np.array_equal(Moments.from_table(one.table).table, one.table)


def test_exact_over_all_trees_of_a_tiny_policy():
    """Ends depend on what was drawn, and so do values: the mean of moments over all trees with their probabilities has
    the policy's own components, tokens, reach and squared scores, to rounding."""
    policy = TinyPolicy(2)
    shape = TreeShape(width=4, depth=2, segment_len=1, num_children=2)
    rules = GrowthRules(shape, InitialFork(2, 2), StagedBranching((2, 4)), NoFallback(), STOPPING)
    tables = [p * moments_of(tree, values_of(tree), shape).table for p, tree in all_trees(rules, policy)]
    found = solve_components(Moments.from_table(np.sum(tables, axis=0)), signed=True)
    first, values = np.array(policy([])), np.array([policy.mean(value_of, 2, start=[i]) for i in range(2)])
    after = np.array(policy([1]))
    ends = np.array([value_of([1, i]) for i in range(2)])
    expected = [first @ values**2 - (first @ values) ** 2, after @ ends**2 - (after @ ends) ** 2]
    assert found.variances == pytest.approx(expected)
    assert found.reached == pytest.approx([1, first[1]])
    assert found.tokens == pytest.approx([1, 1])
    assert found.scores == pytest.approx([1 - (first**2).sum(), 1 - (after**2).sum()], rel=1e-6)

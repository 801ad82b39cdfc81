"""Whole trees under every strategy, and strategies that return something impossible."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grow.scripts import World, has_its_width, problems, same_tree, worlds
from treepo.errors import StrategyError
from treepo.grow.branching import InitialFork, LogprobBranching, RandomBranching, TokenBudgetBranching
from treepo.grow.fallback import Backtrack, BacktrackPoint, NoFallback
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape

pytestmark = pytest.mark.quick

BRANCHINGS = [
    RandomBranching(1, 4),
    TokenBudgetBranching(12),
    LogprobBranching("low"),
    LogprobBranching("high", "path", "sum", temperature=5.0, last_temperature=1.0),
]


@settings(max_examples=300, deadline=None)
@given(worlds(), st.sampled_from(BRANCHINGS), st.booleans())
def test_every_branching_gives_exactly_width_leaves(world, branching, segment_full_trees):
    tree = world.grow(branching=branching, segment_full_trees=segment_full_trees)
    assert has_its_width(tree, world.shape)
    assert max(tree.response_len(leaf) for leaf in tree.leaves()) <= world.shape.max_response_tokens


FALLBACKS = [
    Backtrack("all", window=3),
    Backtrack("longest", cut="unlikely_token"),
    Backtrack("by_reason", noise=0.5, cut="likely_block", block_len=2),
    Backtrack("long_answered", cut="unlikely_block", block_len=3, temperature=0.5),
    Backtrack("all", cut="prompt"),
]


@settings(max_examples=400, deadline=None)
@given(worlds(), st.sampled_from(FALLBACKS))
def test_every_fallback_gives_exactly_width_leaves(world, fallback):
    """Also with cuts inside segments, and the same tree whether a full one is cut or not; nothing decoded is lost."""
    tree = world.grow(engine := world.engine(), fallback=fallback)
    assert has_its_width(tree, world.shape)
    assert all(tree.response_len(leaf) <= world.shape.max_response_tokens for leaf in tree.leaves())
    assert same_tree(tree, world.grow(fallback=fallback, segment_full_trees=False))
    assert {tuple(tree.ids(leaf).tolist()) for leaf in tree.leaves()} <= set(engine.decoded())
    assert sum(len(r.token_ids) for r in engine.results.values()) == tree.num_decoded()


@settings(max_examples=200, deadline=None)
@given(worlds(), st.booleans())
def test_without_fallback_a_tree_keeps_what_it_has(world, segment_full_trees):
    """At least one trajectory, never more than width, and none that begins inside another finished one."""
    tree = world.grow(fallback=NoFallback(), segment_full_trees=segment_full_trees)
    assert 1 <= len(tree.leaves()) <= world.shape.width
    longest = max(tree.response_len(leaf) for leaf in tree.leaves())
    assert longest <= world.shape.max_response_tokens


@dataclass(frozen=True)
class Returns:
    """A strategy that returns what it is told to."""

    value: list

    def __call__(self, *_: object) -> list:
        return self.value


@pytest.mark.parametrize("value", [[1], [1, 1, 1], [0, 2], [5, 4], None, ["1", "1"], [1.5, 1]])
def test_a_wrong_number_of_children_names_the_strategy(value):
    """None and texts were a TypeError, and half a child was taken."""
    world = World(TreeShape(8, 4, 2), InitialFork(2, 2))
    with pytest.raises(StrategyError, match="branching: Returns returned .* for 2 active paths with 8 trajectories"):
        world.grow(branching=Returns(value))


@pytest.mark.parametrize(
    "cuts", ["x", [], [BacktrackPoint(0, 1)], [BacktrackPoint(99, 0)], [BacktrackPoint(1, 4)], [BacktrackPoint(1, -1)]]
)
def test_a_cut_outside_the_trajectory_names_the_strategy(cuts):
    world = World(TreeShape(8, 2, 2, num_children=1), InitialFork(2, 2))
    with pytest.raises(StrategyError, match="fallback: Returns returned"):
        world.grow(fallback=Returns(cuts))


def test_trees_finished_before_a_mistake_are_not_lost():
    """They were yielded as they finished."""

    @dataclass
    class SoonWrong:
        calls: int = 0

        def __call__(self, level, rng: np.random.Generator) -> list[int]:
            self.calls += 1
            return [1] * level.num_active if self.calls < 12 else []

    world = World(TreeShape(4, 3, 2, num_children=1), InitialFork(2, 2))
    trees = []
    with pytest.raises(StrategyError):
        trees.extend(
            tree.problem_id
            for _, tree in TreeSampler(world.engine(2), world.rules(branching=SoonWrong())).grow(problems(9), 0)
        )
    assert len(trees) >= 1

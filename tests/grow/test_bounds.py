"""Trees with a minimum length of trajectories, or a token budget instead of a number of trajectories."""

import numpy as np
import pytest

from tests.grow.scripts import EOS, Noise, World, problem
from treepo.engine.base import SamplingParams
from treepo.errors import StrategyError
from treepo.grow.branching import InitialFork, TokenBudgetBranching
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import NoFallback
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape as Shape
from treepo.grow.stopping import StopRules
from treepo.tree import Node, StopReason, Tree

pytestmark = pytest.mark.quick

CHAIN = InitialFork(1, 1)


def ends_at(*lengths: int):
    """A script: the n-th trajectory that is begun ends with EOS as its n-th of these tokens; later ones as the last."""
    begun = []

    def script(ids: np.ndarray, seed: int) -> tuple[int, float]:
        position = len(ids) - 1
        if position == 0:
            begun.append(seed)
        return (EOS[0] if position + 1 >= lengths[min(len(begun), len(lengths)) - 1] else 0), -1.0

    return script


def grow(shape: Shape, script, **changed: object) -> Tree:
    """One tree of a script whose only end is EOS, on the prompt of one token."""
    world = World(shape, CHAIN)
    engine = world.engine(max_num_seqs=1)
    engine.script = script
    return world.grow(engine, **changed)


def lengths_of(tree: Tree) -> list[int]:
    return [tree.response_len(leaf) for leaf in tree.leaves()]


def test_a_trajectory_that_is_too_short_is_grown_again() -> None:
    """2 tokens do not count where 3 are wanted; they are dropped, and the next path starts from the prompt."""
    tree = grow(Shape(3, 4, 4, 1, min_response_len=3), ends_at(2, 2, 5))
    assert len(tree.leaves()) == 3
    assert min(lengths_of(tree)) >= 3
    assert tree.num_dropped == 2 + 2


def test_a_tree_without_a_trajectory_is_not_given_up() -> None:
    """Without fallback, a tree whose only path was too short would have no leaf at all."""
    assert lengths_of(grow(Shape(1, 4, 4, 1, min_response_len=3), ends_at(2, 5), fallback=NoFallback())) == [5]


def test_after_as_many_short_ones_as_the_width_they_count() -> None:
    """A policy that always ends at once would never finish a tree otherwise."""
    tree = grow(Shape(4, 4, 4, 2, min_response_len=3), ends_at(1))
    assert lengths_of(tree) == [1, 1, 1, 1]
    assert tree.num_dropped == 4


def test_what_led_to_a_dropped_trajectory_is_dropped_too() -> None:
    """Its first segment would be left as a node without a leaf below it, which no leaf's advantage reaches."""
    tree = grow(Shape(1, 4, 2, 1, min_response_len=4), ends_at(3, 6))
    assert lengths_of(tree) == [6]
    assert all(below or node.stop for below, node in zip(tree.children(), tree.nodes, strict=True))
    assert (tree.num_dropped, tree.num_decoded()) == (3, 9)


def test_a_token_budget_buys_trajectories() -> None:
    """40 tokens buy 6 trajectories of 6: the first, then (40 - 6) / 6 = 5 more."""
    tree = grow(Shape(100, 2, 16, 1, token_budget=40), ends_at(6))
    assert lengths_of(tree) == [6] * 6


def test_the_width_within_a_budget() -> None:
    """F + floor((budget - spent) / next length), but no fewer than min_width and no more than width."""
    shape = Shape(10, 8, 16, token_budget=100, min_width=3)
    assert shape.within_budget([20, 30], 25.0).width == 2 + 2
    assert shape.within_budget([20, 30], 26.0).width == 3
    assert shape.within_budget([60, 60], 10.0).width == 3
    assert shape.within_budget([1], 2.0).width == 10
    assert Shape(10).within_budget([20, 30], 25.0) == Shape(10)


def test_the_budget_limits_forks() -> None:
    """With 8 tokens each and 36 to spend, 2 paths of 4 tokens fork into floor(36 / (4 + 4)) = 4, not into 6."""
    world = World(Shape(100, 2, 4, 3, token_budget=36), InitialFork(2, 2))
    tree = world.grow()
    assert lengths_of(tree) == [8] * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_response_len": 0}, "min_response_len: must be within 1..128"),
        ({"min_response_len": 129}, "min_response_len: must be within 1..128"),
        ({"token_budget": 0}, "token_budget: must allow a trajectory of min_response_len = 1"),
        ({"token_budget": 9, "min_response_len": 10}, "token_budget: must allow"),
        ({"min_width": 9}, "min_width: must be within 1..width = 8, got 9"),
        ({"min_width": 0}, "min_width: must be within 1..width"),
    ],
)
def test_bounds_that_cannot_be_met_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shape(8, 8, 16, **wrong)


def test_a_budget_below_one_segment_names_the_strategy() -> None:
    """TokenBudgetBranching would otherwise decode more than its setting says, silently."""
    with pytest.raises(StrategyError, match="max_step_tokens=15 cannot decode a segment of 16"):
        World(Shape(8, 8, 16)).grow(branching=TokenBudgetBranching(15))


def test_an_answer_rule_needs_a_tokenizer() -> None:
    """GrowthRules without `decode` grow trees that never look at text, and say so where a rule does."""
    world = World(Shape(4, 3, 2), noise=Noise(eos=0.3))

    def rules(stopping: StopRules) -> GrowthRules:
        r = world.rules()
        return GrowthRules(r.shape, r.initial_fork, r.branching, r.fallback, stopping)

    [(_, tree)] = TreeSampler(world.engine(), rules(StopRules("never", "never"))).grow([problem("p")], 0)
    assert len(tree.leaves()) == 4
    for stopping in (StopRules("answer", "never"), StopRules("never", "first")):
        with pytest.raises(StrategyError, match="reads text, but there is no tokenizer"):
            list(TreeSampler(world.engine(), rules(stopping)).grow([problem("p")], 0))


WRONG_SAMPLING = [
    *({"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 1.5}),
    *({"repetition_penalty": 0.0}, {"repetition_penalty": float("inf")}, {"repetition_penalty": float("nan")}),
]


@pytest.mark.parametrize("wrong", WRONG_SAMPLING)
def test_impossible_sampling_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # pyright: ignore[reportArgumentType]


def test_negative_temperatures_are_refused() -> None:
    world = World(Shape(4, 3, 2))
    with pytest.raises(ValueError, match=r"temperature: must not be negative, got -0\.5"):
        TreeSampler(world.engine(), world.rules(), SamplingParams(temperature=-0.5))


def test_a_stop_rule_that_lets_eos_pass_is_named() -> None:
    """A path that drew EOS cannot go on."""
    with pytest.raises(StrategyError, match="stopping: function let a path go on"):
        World(Shape(4, 3, 2), noise=Noise(eos=1.0)).grow(stopping=lambda end: None)
    with pytest.raises(StrategyError, match="stopping: function returned True"):
        World(Shape(4, 3, 2)).grow(stopping=lambda end: True)  # pyright: ignore[reportArgumentType]


def test_pruning_keeps_trajectories_and_their_order() -> None:
    """The nodes that stay keep their tokens, seeds and order, whatever lay between them."""
    tree = Tree.from_prompt("p", np.array([1]), 0)
    for parent, token, stop in [
        (0, 1, None),
        (0, 2, None),
        (2, 3, StopReason.EOS),
        (1, 4, None),
        (2, 5, StopReason.EOS),
    ]:
        tree.add(Node(parent, np.array([token], np.int32), np.zeros(1, np.float32), token, stop))
    before = [(t.token_ids.tolist(), t.stop) for t in tree.trajectories()]
    tree.prune()
    assert [(t.token_ids.tolist(), t.stop) for t in tree.trajectories()] == before
    assert [(n.parent, n.token_ids.tolist()) for n in tree.nodes[1:]] == [(0, [2]), (1, [3]), (1, [5])]
    assert (tree.num_dropped, tree.num_decoded()) == (2, 5)


def test_fallbacks_are_counted() -> None:
    """A chain that ends at once is resumed width - 1 times; a tree that forks to its width never."""
    assert grow(Shape(5, 2, 4, 1), ends_at(3)).num_fallbacks == 4
    assert World(Shape(4, 4, 3), InitialFork(2, 2)).grow().num_fallbacks == 0

"""Dynamic sampling: how many problems a round grows, and what a step makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.learn.test_trainer import Alternating, half_judge, make_trainer, same, weights
from tests.learn.test_trainer import given as given_to_updater
from treepo.data.problem import Problem
from treepo.learn.settings import DynamicSampling

EVERY_FOURTH = 4


def one_in_four(problem: Problem, response: str) -> float:
    """Problems whose number is divisible by four may carry a signal; the others are always failed."""
    return half_judge(problem, response) if int(problem.id[1:]) % EVERY_FOURTH == 0 else 0.0


def test_one_round_grows_what_is_wanted() -> None:
    """Without further rounds nothing is grown in place of what carries no signal."""
    once = DynamicSampling()
    assert once.max_problems(32) == 32
    assert once.num_next(32, 0, 0, 0) == 32
    assert once.num_next(32, 5, 32, 1) == 0


def test_later_rounds_grow_by_the_share_of_survivors() -> None:
    """16 of 32 are missing and 17/33 survive: 32 more; when nothing survived, all that is left."""
    dynamic = DynamicSampling(max_rounds=3, max_factor=3.0)
    assert dynamic.num_next(32, 16, 32, 1) == 32
    assert dynamic.num_next(32, 0, 32, 1) == 64
    assert dynamic.num_next(32, 31, 60, 2) == 2
    assert dynamic.num_next(32, 32, 60, 2) == 0
    assert dynamic.num_next(32, 10, 96, 2) == 0


@given(st.integers(1, 20), st.integers(1, 5), st.floats(1, 6), st.integers(0, 2**32))
def test_rounds_and_problems_are_bounded(wanted: int, max_rounds: int, max_factor: float, seed: int) -> None:
    """Whatever survives, a step ends within its rounds and its problems, and stops as soon as it has enough."""
    dynamic, rng = DynamicSampling(max_rounds, max_factor), np.random.default_rng(seed)
    rate, kept, grown, rounds = rng.random(), 0, 0, 0
    while count := dynamic.num_next(wanted, kept, grown, rounds):
        assert count > 0
        assert kept < wanted
        kept += int(rng.binomial(count, rate))
        grown += count
        rounds += 1
    assert 1 <= rounds <= max_rounds
    assert wanted <= grown <= dynamic.max_problems(wanted)
    assert kept >= wanted or rounds == max_rounds or grown == dynamic.max_problems(wanted)


def test_a_step_goes_on_until_enough_problems_carry_a_signal() -> None:
    """Of each four problems one can; three are wanted, so that further rounds grow more than the first three."""
    trainer = make_trainer(
        one_in_four, 1, prompts_per_step=3, dynamic_sampling=DynamicSampling(max_rounds=6, max_factor=10)
    )
    result = trainer.step(1)
    metrics = result.metrics
    assert metrics["problems/trained"] == 3
    assert metrics["problems/rounds"] > 1
    assert metrics["problems/grown"] == len(result.trees) > 3
    assert metrics["problems/failed"] + metrics["problems/trained"] + metrics["problems/unused"] == len(result.trees)
    assert [len(trees) for trees in given_to_updater(trainer)] == [3]
    asked = [tree.problem_id for tree in result.trees]
    assert asked == [f"p{i}" for i in range(len(asked))], "no problem twice"


def test_enough_is_enough() -> None:
    """Trees beyond the wanted number that carry a signal are kept, counted as unused and not trained on."""
    dynamic = DynamicSampling(max_rounds=2, max_factor=3)

    def second_round_all_alive(problem: Problem, response: str) -> float:
        number = int(problem.id[1:])
        return alternating(problem, response) if number == 0 or number >= 4 else 1.0

    alternating = Alternating()
    result = make_trainer(second_round_all_alive, 1, prompts_per_step=4, dynamic_sampling=dynamic).step(1)
    assert result.metrics["problems/grown"] == 4 + 8
    assert result.metrics["problems/solved"] == 3
    assert result.metrics["problems/trained"] == 4
    assert result.metrics["problems/unused"] == 5
    assert [i for i, a in enumerate(result.advantages) if a is not None] == [0, 4, 5, 6]


def test_a_step_in_which_nothing_survives_leaves_the_weights() -> None:
    """The authors' release raises an error here; a run goes on, and its metrics say what happened."""
    trainer = make_trainer(lambda problem, response: 0.0, dynamic_sampling=DynamicSampling(max_rounds=3, max_factor=2))
    before = weights(trainer.policy.model)
    metrics = trainer.step(1).metrics
    assert same(before, weights(trainer.policy.model))
    assert (metrics["problems/grown"], metrics["problems/failed"], metrics["problems/trained"]) == (10, 10, 0)


def test_rounds_grow_different_trees_for_the_same_problem() -> None:
    """A small data set asks a problem again in a later round of the same step."""
    trainer = make_trainer()
    problems = trainer.task.training_problems(0, 1)
    first, second = (trainer.grow(problems, 1, num_rounds)[0] for num_rounds in (0, 1))
    assert [n.token_ids.tolist() for n in first.nodes] != [n.token_ids.tolist() for n in second.nodes]


@pytest.mark.parametrize("wrong", [{"max_rounds": 0}, {"max_factor": 0.5}, {"max_factor": float("inf")}])
def test_impossible_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DynamicSampling(**wrong)

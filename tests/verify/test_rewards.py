"""Rewards in the loop: what is logged, what is learned from, and that the default changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.learn.test_trainer import Alternating, half_judge, make_trainer, same, weights
from treepo.data.problem import Outcome, Problem, Verdict
from treepo.errors import StrategyError
from treepo.learn.trainer import Trainer
from treepo.tree import StopReason, Tree
from treepo.verify.reward_functions import Answers
from treepo.verify.rewards import ScoredLeaves, ShapedReward, component_metrics, verdict_metrics

SHAPED = ShapedReward(correct=2.0, overlong=0.5, overlong_buffer=8, format=0.25, length=0.5)


class PlainTrainer(Trainer):
    """Rewards each leaf with what the task says, as before there were parts."""

    def verify(self, problems: Sequence[Problem], trees: Sequence[Tree], step: int = 0) -> list[ScoredLeaves]:
        """One question per leaf, tree by tree."""
        verified = []
        for problem, tree in zip(problems, trees, strict=True):
            texts = [self.policy.decode(t.token_ids.tolist()) for t in tree.trajectories()]
            verdicts = self.task.verify([(problem, text) for text in texts])
            rewards = np.array([v.correct for v in verdicts])
            verified.append(ScoredLeaves(verdicts, rewards, {}, rewards))
        return verified


@dataclass(frozen=True)
class Returns:
    """A reward that returns what it is told to."""

    parts: Any

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]:
        return self.parts


def test_the_default_is_the_tasks_reward_bit_for_bit() -> None:
    """Two steps with the default and with the task's reward alone: the same figures, rewards and weights."""
    trainer = make_trainer()
    plain = PlainTrainer(**vars(make_trainer()))
    for step in (1, 2):
        one, other = trainer.step(step), plain.step(step)
        assert one.metrics.pop("reward/correct") == one.metrics["reward/mean"]
        for ours, theirs in zip(one.rewards, other.rewards, strict=True):
            assert ours.dtype == theirs.dtype == np.float64
            np.testing.assert_array_equal(ours, theirs)
        timeless = [
            {k: v for k, v in result.metrics.items() if not k.startswith(("time/", "memory/"))}
            for result in (one, other)
        ]
        assert timeless[0] == timeless[1] and timeless[0]["problems/trained"] > 0
    assert same(weights(trainer.policy.model), weights(plain.policy.model))


def test_parts_are_logged_and_add_up() -> None:
    """reward/mean is the sum of the means of the parts, which are those of the trees; these keep the sums."""
    trainer = replace(make_trainer(), reward=SHAPED)
    problems = trainer.task.training_problems(0, 5)
    result = trainer.step(1)
    verified = trainer.verify(problems, result.trees)
    parts = {name: value for name, value in result.metrics.items() if name.startswith("reward/")}
    mean, _ = parts.pop("reward/mean"), parts.pop("reward/unbiased")
    assert list(parts) == ["reward/correct", "reward/overlong", "reward/format", "reward/length"]
    assert sum(parts.values()) == pytest.approx(mean) == np.mean(np.concatenate(result.rewards))
    assert parts["reward/overlong"] < 0
    for name, value in parts.items():
        assert value == pytest.approx(np.mean([v.components[name.removeprefix("reward/")] for v in verified]))
    for v, rewards in zip(verified, result.rewards, strict=True):
        np.testing.assert_array_equal(rewards, v.rewards)
        np.testing.assert_allclose(rewards, sum(v.components.values()))


def test_a_reward_sees_its_trees_answers() -> None:
    """Texts, lengths and ends as they are in the tree; the limit is the longest response; the problem with columns."""
    seen: list[Answers] = []

    class Noting(ShapedReward):
        def __call__(self, answers: Answers) -> dict[str, np.ndarray]:
            seen.append(answers)
            return super().__call__(answers)

    trainer = replace(make_trainer(), reward=Noting())
    (problem,) = trainer.task.training_problems(0, 1)
    problem = replace(problem, columns={"level": 3})
    (tree,) = trainer.grow([problem], step=0)
    trainer.verify([problem], [tree])
    (answers,) = seen
    assert answers.problem is problem
    leaves = tree.leaves()
    assert answers.lengths.tolist() == [tree.response_len(leaf) for leaf in leaves]
    assert list(answers.texts) == [trainer.policy.decode(tree.ids(leaf)[2:].tolist()) for leaf in leaves]
    assert answers.correct.tolist() == [half_judge(problem, text) for text in answers.texts]
    stops = [tree.nodes[leaf].stop for leaf in leaves]
    assert answers.finished.tolist() == [stop in (StopReason.ANSWER, StopReason.EOS) for stop in stops]
    assert answers.max_response_tokens == trainer.sampler.rules.shape.max_response_tokens == 12
    assert answers.lengths.max() <= answers.max_response_tokens


@pytest.mark.parametrize(("value", "name"), [(1.0, "problems/solved"), (0.0, "problems/failed")])
def test_all_right_and_all_wrong_are_told_by_the_task(value: float, name: str) -> None:
    """Also where lengths make a signal: rewards that differ do not tell whether answers are right."""
    trainer = replace(make_trainer(lambda *_: value), reward=ShapedReward(overlong=1.0, overlong_buffer=12))
    metrics = trainer.step(1).metrics
    assert metrics[name] == metrics["problems/grown"] == 5
    assert metrics["problems/solved"] + metrics["problems/failed"] == 5
    assert metrics["problems/trained"] > 0


def test_a_length_neutral_reward_trains() -> None:
    """Its part is logged as 0: it moves rewards within a tree, not their mean."""
    trainer = replace(make_trainer(Alternating()), reward=ShapedReward(length_neutral=True))
    result = trainer.step(1)
    assert result.metrics["reward/length_neutral"] == pytest.approx(0, abs=1e-12)
    assert result.metrics["reward/mean"] == pytest.approx(result.metrics["reward/correct"])
    for tree, rewards in zip(result.trees, result.rewards, strict=True):
        lengths = np.array([tree.response_len(leaf) for leaf in tree.leaves()])
        assert abs((lengths - lengths.mean()) @ rewards) < 1e-9
    assert result.metrics["problems/trained"] > 0


def test_a_part_that_some_trees_lack_counts_as_nothing_there() -> None:
    """So that the means of all parts still add up to that of the rewards."""
    wrong = [Verdict(0.0, Outcome.GRADED, None)] * 2
    one = ScoredLeaves(wrong, np.zeros(2), {"a": np.ones(2)}, np.ones(2))
    other = ScoredLeaves(wrong, np.zeros(2), {"a": np.ones(2), "b": np.array([1.0, 3.0])}, np.array([2.0, 4.0]))
    assert component_metrics([one, other]) == {"reward/a": 1.0, "reward/b": 1.0}


def test_verdicts_that_came_without_comparing_are_counted() -> None:
    """A share for each way, 0 where none came about so: a verifier that fails does not look like a weak model."""
    outcomes = [Outcome.GRADED, Outcome.TIMEOUT, Outcome.NO_ANSWER, Outcome.TIMEOUT]
    verified = [ScoredLeaves([Verdict(0.0, o, None)], np.zeros(1), {}, np.zeros(1)) for o in outcomes]
    shares = {"verify/no_answer": 0.25, "verify/unparsed": 0.0, "verify/timeout": 0.5, "verify/crashed": 0.0}
    assert verdict_metrics(verified) == shares


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "reward: Returns returned no component"),
        (np.zeros(6), "reward: Returns returned no component"),
        ({"mean": np.zeros(6)}, "returned a component named 'mean'"),
        ({"unbiased": np.zeros(6)}, "returned a component named 'unbiased'"),
        ({"short": np.zeros(5)}, "must return 6 finite numbers as 'short'"),
        ({"one": 1.0}, "must return 6 finite numbers as 'one', got 1.0"),
        ({"nan": np.full(6, np.nan)}, "must return 6 finite numbers as 'nan'"),
    ],
)
def test_parts_that_cannot_be_are_named(parts, message) -> None:
    with pytest.raises(StrategyError, match=message):
        replace(make_trainer(), reward=Returns(parts)).step(1)


def test_lists_are_numbers_too() -> None:
    """They passed the check and raised where metrics are made."""
    listed = replace(make_trainer(), reward=Returns({"one": [1.0] * 6})).step(1)
    assert listed.metrics["reward/one"] == 1.0

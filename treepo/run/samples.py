"""From a step's trees and an evaluation's answers to what is kept of them."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from treepo.data.problem import Problem
from treepo.envs.transcript import TurnText
from treepo.evaluate.answering import GREEDY
from treepo.evaluate.records import AnswerRecord
from treepo.report.run_log import SampleRow, plain, plain_turns
from treepo.report.trees import Grading, KeptTree
from treepo.verify.rewards import ScoredLeaves

if TYPE_CHECKING:
    from treepo.learn.trainer import StepResult

MAX_HELD_OUT = 32
"""Held-out problems whose greedy answer is kept at every evaluation, so that early and late ones can be compared."""


def kept_trees(result: "StepResult") -> list[KeptTree]:
    """The trees of a step with all that is known of their leaves."""
    entropies = result.entropies or [None] * len(result.trees)
    columns = zip(result.trees, result.problems, result.scored, result.advantages, entropies, strict=True)
    return [
        KeptTree(tree, scored.rewards, advantages, own_entropies, grading_of(problem, scored))
        for tree, problem, scored, advantages, own_entropies in columns
    ]


def grading_of(problem: Problem, scored: ScoredLeaves) -> Grading:
    """How the leaves of a problem's tree were graded."""
    return Grading(
        question=problem.prompt,
        ground_truth=problem.ground_truth,
        extracted_answers=[verdict.extracted_answer for verdict in scored.verdicts],
        outcomes=[verdict.outcome.value for verdict in scored.verdicts],
        correct=scored.correct,
        parts=scored.components,
        extra=scored.columns,
    )


def greedy_samples(answers: Sequence[AnswerRecord]) -> list[SampleRow]:
    """The greedy answers to the first held-out problems, the same ones at every evaluation."""
    greedy = [answer for answer in answers if answer.setting == GREEDY]
    # Processes answer them by turns; the order of their ids is the same at every evaluation.
    chosen = sorted(greedy, key=lambda answer: (answer.dataset, answer.problem))[:MAX_HELD_OUT]
    return [
        SampleRow(
            problem=plain(answer.problem),
            question=plain(answer.prompt),
            response=plain(answer.response),
            ground_truth=plain(answer.ground_truth),
            extracted_answer=None if answer.extracted_answer is None else plain(answer.extracted_answer),
            outcome=answer.outcome,
            correct=answer.correct,
            stop=answer.stop,
            num_tokens=answer.num_tokens,
            split="eval",
            reward=answer.environment_reward,
            turns=[] if answer.turns is None else plain_turns([TurnText(**turn) for turn in json.loads(answer.turns)]),
        )
        for answer in chosen
    ]

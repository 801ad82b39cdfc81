"""Judging the responses of trees, in training and evaluation, and turning verdicts into rewards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.data.problem import Decode, Outcome, Problem, Task, Verdict
from treepo.errors import StrategyError
from treepo.tree import StopReason, Trajectory, Tree
from treepo.verify.rewards import Answers, Reward, total

RESERVED = ("mean", "unbiased")
"""Names under reward/ that metrics of the sum have."""


@dataclass(frozen=True, eq=False)
class JudgedTree:
    """The trajectories of one tree, their responses as text and the verdicts on them, in the order of `Tree.leaves`."""

    trajectories: list[Trajectory]
    responses: list[str]
    verdicts: list[Verdict]


def judge_trees(task: Task, problems: Sequence[Problem], trees: Sequence[Tree], decode: Decode) -> list[JudgedTree]:
    """Decode the responses of each problem's tree and have the task judge all of them in one batch."""
    trajectories = [tree.trajectories() for tree in trees]
    responses = [[decode(t.token_ids.tolist()) for t in of_tree] for of_tree in trajectories]
    pairs = [(problem, text) for problem, texts in zip(problems, responses, strict=True) for text in texts]
    verdicts = iter(task.verify(pairs))
    return [
        JudgedTree(of_tree, texts, [next(verdicts) for _ in texts])
        for of_tree, texts in zip(trajectories, responses, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class ScoredLeaves:
    """Verdicts and rewards of the leaves of one tree.

    correct: float64 [L], `correct` of each verdict. components: by name, float64 [L], weighted. rewards: float64 [L],
    their sum.
    """

    verdicts: list[Verdict]
    correct: np.ndarray
    components: dict[str, np.ndarray]
    rewards: np.ndarray


def score_leaves(reward: Reward, judged: JudgedTree, max_response_tokens: int) -> ScoredLeaves:
    """Compute the rewards of a tree; raises StrategyError if the components are not what a reward must return."""
    trajectories = judged.trajectories
    answers = Answers(
        correct=np.array([verdict.correct for verdict in judged.verdicts], np.float64),
        texts=tuple(judged.responses),
        lengths=np.array([len(t.token_ids) for t in trajectories]),
        finished=np.array([t.stop in {StopReason.ANSWER, StopReason.EOS} for t in trajectories]),
        max_response_tokens=max_response_tokens,
    )
    components = reward(answers)
    _check(type(reward).__name__, components, len(trajectories))
    return ScoredLeaves(judged.verdicts, answers.correct, components, total(components))


def component_metrics(scored: Sequence[ScoredLeaves]) -> dict[str, float]:
    """reward/<component>: mean over all leaves of the step; they sum to reward/mean. A tree without it counts as 0."""
    num_leaves = sum(len(s.rewards) for s in scored)
    names = dict.fromkeys(name for s in scored for name in s.components)
    sums = {name: sum(s.components[name].sum() for s in scored if name in s.components) for name in names}
    return {f"reward/{name}": float(value) / num_leaves for name, value in sums.items()}


def verdict_metrics(scored: Sequence[ScoredLeaves]) -> dict[str, float]:
    """verify/<outcome>: share of the answers for each outcome other than a comparison."""
    outcomes = Counter(verdict.outcome for s in scored for verdict in s.verdicts)
    others = [outcome for outcome in Outcome if outcome is not Outcome.GRADED]
    return {f"verify/{outcome.replace(' ', '_')}": outcomes[outcome] / outcomes.total() for outcome in others}


def _check(name: str, components: dict[str, np.ndarray], num_leaves: int) -> None:
    if not components:
        raise StrategyError(f"reward: {name} returned no component")
    for key, values in components.items():
        if key in RESERVED:
            raise StrategyError(f"reward: {name} returned a component named {key!r}, which is that of their sum")
        if np.shape(values) != (num_leaves,) or not np.isfinite(values).all():
            raise StrategyError(f"reward: {name} must return {num_leaves} finite numbers as {key!r}, got {values!r}")

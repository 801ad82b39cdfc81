"""The rewards of a tree's leaves, and of which parts they are made."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from treepo.grow import StrategyError
from treepo.grow.stopping import Decode
from treepo.task.checking.verdict import Outcome, Verdict
from treepo.task.problem import Problem, Task
from treepo.task.shaping import Answers, Reward, total
from treepo.tree import StopReason, Trajectory, Tree

TAKEN = ("mean", "unbiased")
"""Names under reward/ that figures of the sum have."""


@dataclass(frozen=True, eq=False)
class Verified:
    """What the leaves of one tree got, each float64 [L].

    verdicts: what the task says, and `correct` of each; parts: by name, with their weights; rewards: the sum of the
    parts.
    """

    verdicts: list[Verdict]
    correct: np.ndarray
    parts: dict[str, np.ndarray]
    rewards: np.ndarray


def verify(
    task: Task, reward: Reward, problems: Sequence[Problem], trees: Sequence[Tree], decode: Decode, limit: int
) -> list[Verified]:
    """What the leaves of each problem's tree get: the task judges all answers at once, the reward those of a tree.

    limit: tokens of the longest response allowed. Raises StrategyError if the parts are not what a reward must return.
    """
    trajectories = [tree.trajectories() for tree in trees]
    texts = [[decode(t.token_ids.tolist()) for t in own] for own in trajectories]
    asked = [(problem, text) for problem, own in zip(problems, texts, strict=True) for text in own]
    verdicts = iter(task.judge(asked))
    return [
        _verified(reward, list(islice(verdicts, len(own))), own, tuple(words), limit)
        for own, words in zip(trajectories, texts, strict=True)
    ]


def _verified(
    reward: Reward, verdicts: list[Verdict], trajectories: Sequence[Trajectory], texts: tuple[str, ...], limit: int
) -> Verified:
    correct = np.array([verdict.correct for verdict in verdicts], np.float64)
    lengths = np.array([len(t.token_ids) for t in trajectories])
    finished = np.array([t.stop in {StopReason.ANSWER, StopReason.EOS} for t in trajectories])
    parts = reward(Answers(correct, texts, lengths, finished, limit))
    _check(type(reward).__name__, parts, len(correct))
    return Verified(verdicts, correct, parts, total(parts))


def part_figures(verified: Sequence[Verified]) -> dict[str, float]:
    """reward/<part>: mean over all leaves of the step; together they are reward/mean. A tree without a part has 0."""
    num_leaves = sum(len(v.rewards) for v in verified)
    names = dict.fromkeys(name for v in verified for name in v.parts)
    return {f"reward/{n}": float(sum(v.parts[n].sum() for v in verified if n in v.parts)) / num_leaves for n in names}


def check_figures(verified: Sequence[Verified]) -> dict[str, float]:
    """check/<outcome>: share of the answers for each way in which a verdict can come about other than by comparing."""
    outcomes = Counter(verdict.outcome for v in verified for verdict in v.verdicts)
    others = [outcome for outcome in Outcome if outcome is not Outcome.CHECKED]
    return {f"check/{outcome.replace(' ', '_')}": outcomes[outcome] / outcomes.total() for outcome in others}


def _check(use: str, parts: dict[str, np.ndarray], num_leaves: int) -> None:
    if not parts:
        raise StrategyError(f"reward: {use} returned no part")
    for name, values in parts.items():
        if name in TAKEN:
            raise StrategyError(f"reward: {use} returned a part named {name!r}, which is that of their sum")
        if np.shape(values) != (num_leaves,) or not np.isfinite(values).all():
            raise StrategyError(f"reward: {use} must return {num_leaves} finite numbers as {name!r}, got {values!r}")

"""The rewards of a tree's leaves, and of which parts they are made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.grow import StrategyError
from treepo.task.problem import Problem, Task
from treepo.task.shaping import Answers, Reward, total
from treepo.tree import StopReason, Trajectory

TAKEN = ("mean", "unbiased")
"""Names under reward/ that figures of the sum have."""


@dataclass(frozen=True, eq=False)
class Verified:
    """What the leaves of one tree got, each float64 [L].

    correct: what the task says; parts: by name, with their weights; rewards: the sum of the parts.
    """

    correct: np.ndarray
    parts: dict[str, np.ndarray]
    rewards: np.ndarray


def verify(
    task: Task, reward: Reward, problem: Problem, trajectories: Sequence[Trajectory], texts: Sequence[str], limit: int
) -> Verified:
    """Ask the task about each answer once, and the reward about all of them.

    limit: tokens of the longest response allowed. Raises StrategyError if the parts are not what a reward must return.
    """
    correct = np.array([task.reward(problem, text) for text in texts], np.float64)
    lengths = np.array([len(t.token_ids) for t in trajectories])
    finished = np.array([t.stop in {StopReason.ANSWER, StopReason.EOS} for t in trajectories])
    parts = reward(Answers(correct, tuple(texts), lengths, finished, limit))
    _check(type(reward).__name__, parts, len(correct))
    return Verified(correct, parts, total(parts))


def part_figures(verified: Sequence[Verified]) -> dict[str, float]:
    """reward/<part>: mean over all leaves of the step; together they are reward/mean. A tree without a part has 0."""
    num_leaves = sum(len(v.rewards) for v in verified)
    names = dict.fromkeys(name for v in verified for name in v.parts)
    return {f"reward/{n}": float(sum(v.parts[n].sum() for v in verified if n in v.parts)) / num_leaves for n in names}


def _check(use: str, parts: dict[str, np.ndarray], num_leaves: int) -> None:
    if not parts:
        raise StrategyError(f"reward: {use} returned no part")
    for name, values in parts.items():
        if name in TAKEN:
            raise StrategyError(f"reward: {use} returned a part named {name!r}, which is that of their sum")
        if np.shape(values) != (num_leaves,) or not np.isfinite(values).all():
            raise StrategyError(f"reward: {use} must return {num_leaves} finite numbers as {name!r}, got {values!r}")

"""Rewards: from verdicts and lengths to the numbers that are trained on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from treepo.data.problem import Decode, Outcome, Problem, Task, Verdict
from treepo.errors import StrategyError
from treepo.tree import StopReason, Trajectory, Tree
from treepo.utils.text import is_only_box

ROUNDING = 1e-9
"""Sums that differ by less, relative to the largest value of any part, differ by rounding."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one tree, one per leaf in the order of `Tree.leaves`: all that its rewards may depend on.

    correct: float64 [L], the task's own reward. texts: decoded, without special tokens; untrusted. lengths: int64 [L],
    response tokens, EOS included. finished: bool [L], whether a trajectory ended by itself (EOS, or a complete answer
    where that ends it) rather than at a limit or for repetition. limit: tokens of the longest response allowed.
    """

    correct: np.ndarray
    texts: tuple[str, ...]
    lengths: np.ndarray
    finished: np.ndarray
    limit: int


class Reward(Protocol):
    """Maps the answers of one tree to named parts, each float64 [L] with its weight in it; the reward is their sum."""

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class ShapedReward:
    """correct x (is it right) + overlong x (penalty) + format x (is it well formed) + length x (is it short), and what
    length explains taken out if asked for; a part of weight 0 is left out. By default the task's own reward alone.

    The group of a problem is its tree: minima, maxima, means and slopes are over its leaves, each counting once.
    """

    correct: float = 1.0
    """Weight of the task's own reward, 1 for right and 0 for wrong."""

    overlong: float = 0.0
    """Weight of a penalty on the last `overlong_buffer` tokens before the longest response: 0 up to there, then falling
    linearly to -1 at the limit (see `overlong_penalty`)."""

    overlong_buffer: int = 512
    """Tokens before the longest response within which the penalty grows."""

    format: float = 0.0
    """Weight of 1 for a trajectory that ended by itself with exactly one box, which is closed and not empty. Wrong
    answers get it too, so it should weigh much less than being right."""

    length: float = 0.0
    """Weight of a reward for short answers among those to the same problem, -0.5 to 0.5 (see `length_reward`)."""

    length_neutral: bool = False
    """Take out of the reward what length explains within the tree: it is then uncorrelated with length (see
    `length_effect`)."""

    def __post_init__(self) -> None:
        for name in ("correct", "overlong", "format", "length"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.overlong_buffer < 1:
            raise ValueError(f"overlong_buffer must be at least 1, got {self.overlong_buffer}")
        if not self.correct + self.overlong + self.format + self.length:
            raise ValueError(f"correct must be positive where no other part has a weight, got {self.correct}")
        if self.length_neutral and self.overlong + self.length:
            raise ValueError(
                f"length_neutral takes back what overlong and length give: it needs both to be 0, got "
                f"{self.overlong} and {self.length}"
            )

    @property
    def can_be_negative(self) -> bool:
        """Whether an answer's reward may be below 0."""
        return self.overlong + self.length > 0 or self.length_neutral

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]:
        parts = {}
        if self.correct:
            parts["correct"] = self.correct * answers.correct
        if self.overlong:
            parts["overlong"] = self.overlong * overlong_penalty(answers.lengths, answers.limit, self.overlong_buffer)
        if self.format:
            parts["format"] = self.format * well_formed(answers)
        if self.length:
            parts["length"] = self.length * length_reward(answers.lengths, answers.correct)
        if self.length_neutral:
            parts["length_neutral"] = -length_effect(total(parts), answers.lengths)
        return parts


def overlong_penalty(lengths: np.ndarray, limit: int, buffer: int) -> np.ndarray:
    """min(-(length - (limit - buffer)) / buffer, 0): 0 up to limit - buffer, then linear to -1 at the limit.

    Source: soft overlong punishment, DAPO, arXiv 2503.14476, eq. 13; TreePO takes 512 of 7168 tokens. Right and wrong
    answers alike.
    """
    return np.minimum((limit - buffer - lengths) / buffer, 0.0)


def well_formed(answers: Answers) -> np.ndarray:
    """1 where a trajectory ended by itself and holds exactly one box, closed and not empty; else 0."""
    formed = [bool(end) and is_only_box(text) for end, text in zip(answers.finished, answers.texts, strict=True)]
    return np.array(formed, np.float64)


def length_reward(lengths: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """x = 0.5 - (length - shortest) / (longest - shortest) over the group where right, min(0, x) where wrong.

    Source: Kimi k1.5, arXiv 2501.12599, section 2.3.3, which switches it on after a while of training without. 0 where
    all lengths are equal, so for a single answer too. Assumes that of several right answers the shorter is better.
    """
    span = lengths.max() - lengths.min()
    if span == 0:
        return np.zeros(len(lengths))
    short = 0.5 - (lengths - lengths.min()) / span
    return np.where(correct > 0, short, np.minimum(short, 0.0))


def length_effect(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """slope x (length - mean length), the slope that of least squares of the group's rewards on its lengths.

    Rewards less this keep their mean and are uncorrelated with length. Ours: the residual of a linear regression with
    an intercept. 0 where lengths or rewards all agree, so for a single answer too; two answers of unequal length are
    explained wholly, and so carry no signal any more. Assumes that among the answers to one problem length has no merit
    of its own: if only long answers are right, that is taken out as well.
    """
    if rewards.min() == rewards.max() or lengths.min() == lengths.max():
        return np.zeros(len(rewards))
    longer = lengths - lengths.mean()
    return longer * (longer @ (rewards - rewards.mean()) / (longer @ longer))


def total(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [L]: the sum of the parts. If its values differ by rounding alone, all are the first of them, since a
    tree whose rewards agree must not be taken for one with a signal."""
    values = np.array(list(parts.values()), np.float64)
    summed = values.sum(axis=0)
    if np.ptp(summed) <= ROUNDING * np.abs(values).max():
        return np.full(len(summed), summed[0])
    return summed


TAKEN = ("mean", "unbiased")
"""Names under reward/ that metrics of the sum have."""


@dataclass(frozen=True, eq=False)
class ScoredLeaves:
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
) -> list[ScoredLeaves]:
    """What the leaves of each problem's tree get: the task judges all answers at once, the reward those of a tree.

    limit: tokens of the longest response allowed. Raises StrategyError if the parts are not what a reward must return.
    """
    trajectories = [tree.trajectories() for tree in trees]
    texts = [[decode(t.token_ids.tolist()) for t in own] for own in trajectories]
    asked = [(problem, text) for problem, own in zip(problems, texts, strict=True) for text in own]
    verdicts = iter(task.verify(asked))
    return [
        _verified(reward, list(islice(verdicts, len(own))), own, tuple(words), limit)
        for own, words in zip(trajectories, texts, strict=True)
    ]


def _verified(
    reward: Reward, verdicts: list[Verdict], trajectories: Sequence[Trajectory], texts: tuple[str, ...], limit: int
) -> ScoredLeaves:
    correct = np.array([verdict.correct for verdict in verdicts], np.float64)
    lengths = np.array([len(t.token_ids) for t in trajectories])
    finished = np.array([t.stop in {StopReason.ANSWER, StopReason.EOS} for t in trajectories])
    parts = reward(Answers(correct, texts, lengths, finished, limit))
    _check(type(reward).__name__, parts, len(correct))
    return ScoredLeaves(verdicts, correct, parts, total(parts))


def component_metrics(verified: Sequence[ScoredLeaves]) -> dict[str, float]:
    """reward/<part>: mean over all leaves of the step; together they are reward/mean. A tree without a part has 0."""
    num_leaves = sum(len(v.rewards) for v in verified)
    names = dict.fromkeys(name for v in verified for name in v.parts)
    return {f"reward/{n}": float(sum(v.parts[n].sum() for v in verified if n in v.parts)) / num_leaves for n in names}


def verdict_metrics(verified: Sequence[ScoredLeaves]) -> dict[str, float]:
    """verify/<outcome>: share of the answers for each way in which a verdict can come about other than by comparing."""
    outcomes = Counter(verdict.outcome for v in verified for verdict in v.verdicts)
    others = [outcome for outcome in Outcome if outcome is not Outcome.GRADED]
    return {f"verify/{outcome.replace(' ', '_')}": outcomes[outcome] / outcomes.total() for outcome in others}


def _check(use: str, parts: dict[str, np.ndarray], num_leaves: int) -> None:
    if not parts:
        raise StrategyError(f"reward: {use} returned no part")
    for name, values in parts.items():
        if name in TAKEN:
            raise StrategyError(f"reward: {use} returned a part named {name!r}, which is that of their sum")
        if np.shape(values) != (num_leaves,) or not np.isfinite(values).all():
            raise StrategyError(f"reward: {use} must return {num_leaves} finite numbers as {name!r}, got {values!r}")

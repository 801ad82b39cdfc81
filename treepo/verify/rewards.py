"""From the responses of trees to verdicts, and from verdicts and lengths to rewards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from treepo.data.problem import AnswerFormat, Decode, Outcome, Problem, Task, Verdict
from treepo.errors import SettingError, StrategyError
from treepo.tree import StopReason, Trajectory, Tree
from treepo.verify.base import FinalAnswer, is_well_formed

ROUNDING = 1e-9
"""Sums that differ by less, relative to the largest value of any component, differ by rounding."""

RESERVED = ("mean", "unbiased")
"""Names under reward/ that metrics of the sum have."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one tree, one per leaf in the order of `Tree.leaves`: everything that its rewards may depend on.

    correct: float64 [L], the task's own reward. texts: decoded, without special tokens; untrusted. lengths: int64 [L],
    response tokens, EOS included. finished: bool [L], whether a trajectory ended by itself (EOS, or a complete answer
    where that ends it) rather than at a limit or for repetition. max_response_tokens: the longest response allowed.
    problem: what was asked, with its known answer and all columns of its record. written: how answers are written, as
    the verifier reads them.
    """

    correct: np.ndarray
    texts: tuple[str, ...]
    lengths: np.ndarray
    finished: np.ndarray
    max_response_tokens: int
    problem: Problem
    written: AnswerFormat = FinalAnswer()


class Reward(Protocol):
    """Maps the answers of one tree to named components, each float64 [L] and weighted; the reward is their sum."""

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class ShapedReward:
    """A weighted sum of correctness, an overlong penalty, well-formedness and brevity; by default correctness alone.

    A component of weight 0 is left out. The group of a problem is its tree: minima, maxima, means and slopes are over
    its leaves, each counting once.
    """

    correct: float = 1.0
    """Weight of the task's own reward, 1 for right and 0 for wrong."""

    overlong: float = 0.0
    """Weight of a penalty on the last `overlong_buffer` tokens before the longest response: it falls linearly from 0 to
    -1 there (see `overlong_penalty`)."""

    overlong_buffer: int = 512
    """Tokens before the longest response within which the penalty grows."""

    format: float = 0.0
    """Weight of 1 for a trajectory that ended by itself with exactly one answer where the verifier looks for it (one
    box), closed and not empty. Wrong answers get it too, so it should weigh much less than being right."""

    length: float = 0.0
    """Weight of a reward for short answers among those to the same problem, -0.5 to 0.5 (see `length_reward`)."""

    length_neutral: bool = False
    """Whether to subtract what length explains within the tree, which leaves rewards uncorrelated with length (see
    `length_effect`)."""

    def __post_init__(self) -> None:
        for name in ("correct", "overlong", "format", "length"):
            if getattr(self, name) < 0:
                raise SettingError(name, "must not be negative", getattr(self, name))
        if self.overlong_buffer < 1:
            raise SettingError("overlong_buffer", "must be at least 1", self.overlong_buffer)
        if not self.correct + self.overlong + self.format + self.length:
            raise SettingError("correct", "must be positive where no other component has a weight", self.correct)
        if self.length_neutral and self.overlong + self.length:
            given = self.overlong, self.length
            raise SettingError("length_neutral", "takes back what overlong and length give: both must be 0", given)

    @property
    def can_be_negative(self) -> bool:
        """Whether an answer's reward may be below 0."""
        return self.overlong + self.length > 0 or self.length_neutral

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]:
        parts: dict[str, np.ndarray] = {}
        if self.correct:
            parts["correct"] = self.correct * answers.correct
        if self.overlong:
            penalty = overlong_penalty(answers.lengths, answers.max_response_tokens, self.overlong_buffer)
            parts["overlong"] = self.overlong * penalty
        if self.format:
            parts["format"] = self.format * well_formed(answers)
        if self.length:
            parts["length"] = self.length * length_reward(answers.lengths, answers.correct)
        if self.length_neutral:
            parts["length_neutral"] = -length_effect(total(parts), answers.lengths)
        return parts


def overlong_penalty(lengths: np.ndarray, max_response_tokens: int, buffer: int) -> np.ndarray:
    """min(-(length - (limit - buffer)) / buffer, 0): 0 up to limit - buffer, then linear to -1 at the longest response.

    Source: soft overlong punishment, DAPO, arXiv 2503.14476, eq. 13; TreePO takes 512 of 7168 tokens. Right and wrong
    answers alike.
    """
    return np.minimum((max_response_tokens - buffer - lengths) / buffer, 0.0)


def well_formed(answers: Answers) -> np.ndarray:
    """1 where a trajectory ended by itself and gives exactly one answer, complete and not empty; else 0."""
    pairs = zip(answers.finished, answers.texts, strict=True)
    return np.array([bool(end) and is_well_formed(answers.written, text) for end, text in pairs], np.float64)


def length_reward(lengths: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """x = 0.5 - (length - shortest) / (longest - shortest) over the group where right, min(0, x) where wrong.

    Source: Kimi k1.5, arXiv 2501.12599, section 2.3.3, which switches it on later in training. 0 where all lengths are
    equal, so for a single answer too. Assumes that of several right answers the shorter is better.
    """
    span = lengths.max() - lengths.min()
    if span == 0:
        return np.zeros(len(lengths))
    short = 0.5 - (lengths - lengths.min()) / span
    return np.where(correct > 0, short, np.minimum(short, 0.0))


def length_effect(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """slope x (length - mean length), with the least-squares slope of the group's rewards on its lengths.

    Rewards minus this, the residual of a linear regression with an intercept, keep their mean and are uncorrelated with
    length. 0 where lengths or rewards all agree, so for a single answer too; two answers of unequal length are wholly
    explained and carry no signal any more. Assumes that among the answers to one problem length has no merit of its
    own: if only long answers are right, that is subtracted as well. Source: this project's own.
    """
    if rewards.min() == rewards.max() or lengths.min() == lengths.max():
        return np.zeros(len(rewards))
    longer = lengths - lengths.mean()
    return longer * (longer @ (rewards - rewards.mean()) / (longer @ longer))


def total(components: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [L]: the sum of the components.

    Values that differ by rounding alone all become the first of them, since a tree whose rewards agree must not be
    taken for one with a signal.
    """
    values = np.array(list(components.values()), np.float64)
    summed = values.sum(axis=0)
    if np.ptp(summed) <= ROUNDING * np.abs(values).max():
        return np.full(len(summed), summed[0])
    return summed


@dataclass(frozen=True, eq=False)
class VerifiedTree:
    """A tree of responses to a problem: its trajectories, their responses as text and the verdicts on them, by leaf.

    written: how answers are written.
    """

    problem: Problem
    tree: Tree
    trajectories: list[Trajectory]
    responses: list[str]
    verdicts: list[Verdict]
    written: AnswerFormat


def verify_trees(task: Task, problems: Sequence[Problem], trees: Sequence[Tree], decode: Decode) -> list[VerifiedTree]:
    """Decode the responses of each problem's tree and verify all of them in one batch."""
    trajectories = [tree.trajectories() for tree in trees]
    responses = [[decode(t.token_ids.tolist()) for t in of_tree] for of_tree in trajectories]
    pairs = [(problem, text) for problem, texts in zip(problems, responses, strict=True) for text in texts]
    verdicts = iter(task.verify(pairs))
    leaves = zip(problems, trees, trajectories, responses, strict=True)
    return [
        VerifiedTree(*of_tree, verdicts=list(islice(verdicts, len(of_tree[-1]))), written=task.answers)
        for of_tree in leaves
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


def score_leaves(reward: Reward, verified: VerifiedTree, max_response_tokens: int) -> ScoredLeaves:
    """Compute the rewards of a tree; raises StrategyError if the components are not what a reward must return."""
    trajectories = verified.trajectories
    answers = Answers(
        correct=np.array([verdict.correct for verdict in verified.verdicts], np.float64),
        texts=tuple(verified.responses),
        lengths=np.array([len(t.token_ids) for t in trajectories]),
        finished=np.array([t.stop in {StopReason.ANSWER, StopReason.EOS} for t in trajectories]),
        max_response_tokens=max_response_tokens,
        written=verified.written,
        problem=verified.problem,
    )
    components, name = reward(answers), type(reward).__name__
    if not components:
        raise StrategyError(f"reward: {name} returned no component")
    for key, values in components.items():
        if key in RESERVED:
            raise StrategyError(f"reward: {name} returned a component named {key!r}, which is that of their sum")
        if np.shape(values) != (len(trajectories),) or not np.isfinite(values).all():
            wanted = f"{len(trajectories)} finite numbers"
            raise StrategyError(f"reward: {name} must return {wanted} as {key!r}, got {values!r}")
    return ScoredLeaves(verified.verdicts, answers.correct, components, total(components))


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

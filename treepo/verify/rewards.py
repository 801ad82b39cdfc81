"""From the responses of trees to verdicts, and from verdicts and lengths to rewards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np

from treepo.data.problem import AnswerFormat, Decode, Outcome, Problem, Task, Verdict
from treepo.errors import SettingError, StrategyError
from treepo.tree import ENDED_ITSELF, LOST, StopReason, Trajectory, Tree
from treepo.verify.base import is_well_formed
from treepo.verify.reward_functions import (
    Answers,
    FunctionLog,
    RewardFunction,
    Scalar,
    TrainerState,
    call_functions,
    function_names,
    load_function,
    without_gaps,
)
from treepo.verify.shaping import length_effect, length_reward, overlong_penalty, total

NO_STATE = TrainerState()

RESERVED = ("mean", "unbiased")
"""Names under reward/ that metrics of the sum have."""


class Reward(Protocol):
    """Maps the answers of one tree to named components, each float64 [L] and weighted; the reward is their sum."""

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]: ...


@runtime_checkable
class StepReward(Protocol):
    """A Reward that sees all trees of a step at once, as functions that call a model or a server want to."""

    def of_step(self, answers: Sequence[Answers]) -> tuple[list[dict[str, np.ndarray]], FunctionLog]:
        """(per tree its components, what is to be logged)."""
        ...


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

    environment: float = 0.0
    """Weight of what the environment gave, summed over the turns of a trajectory."""

    length_neutral: bool = False
    """Whether to subtract what length explains within the tree, which leaves rewards uncorrelated with length (see
    `length_effect`)."""

    functions: tuple[str | RewardFunction, ...] = ()
    """Reward functions, each module:function and called as TRL calls them, or a reward model by its folder or name on
    the hub (see docs/rewards.md)."""

    function_weights: tuple[float, ...] = ()
    """Weight of each function; 1 if none is given."""

    def __post_init__(self) -> None:
        for name in ("correct", "overlong", "format", "length", "environment"):
            if getattr(self, name) < 0:
                raise SettingError(name, "must not be negative", getattr(self, name))
        if self.overlong_buffer < 1:
            raise SettingError("overlong_buffer", "must be at least 1", self.overlong_buffer)
        if self.function_weights and len(self.function_weights) != len(self.functions):
            message = f"needs a number for each of {len(self.functions)} functions"
            raise SettingError("function_weights", message, list(self.function_weights))
        if not self.correct + self.overlong + self.format + self.length + self.environment and not self.functions:
            raise SettingError("correct", "must be positive where no other component has a weight", self.correct)
        if self.length_neutral and self.overlong + self.length:
            given = self.overlong, self.length
            raise SettingError("length_neutral", "takes back what overlong and length give: both must be 0", given)

    @property
    def can_be_negative(self) -> bool:
        """Whether an answer's reward may be below 0."""
        return self.overlong + self.length + self.environment > 0 or self.length_neutral

    def loaded(self) -> "ShapedReward":
        """The same reward with functions in place of their names, and reward models loaded, so that nothing is looked
        for at each step. Raises SettingError for what cannot be found."""
        try:
            return replace(self, functions=tuple(map(load_function, self.functions)))
        except SettingError as error:
            raise error.within("reward") from error

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]:
        return self.of_step([answers])[0][0]

    def of_step(self, answers: Sequence[Answers]) -> tuple[list[dict[str, np.ndarray]], FunctionLog]:
        """See StepReward. Where a function abstains from some answers of a tree, its mean over the others stands for
        it; an answer that all abstain from, where there are functions alone, has nan."""
        names, log = function_names(self.functions, (*RESERVED, *self._own_names)), FunctionLog()
        values: list[list[np.ndarray]] = [[] for _ in answers]
        if self.functions:
            functions = [function for function in self.functions if not isinstance(function, str)]
            assert len(functions) == len(names), "functions that are named have to be loaded first"
            try:
                values, log = call_functions(functions, names, answers)
            except SettingError as error:
                raise error.within("reward") from error
        weights = self.function_weights or (1.0,) * len(names)
        found = []
        for one, of_tree in zip(answers, values, strict=True):
            parts = self._own_parts(one)
            others = {n: w * without_gaps(v) for n, w, v in zip(names, weights, of_tree, strict=True)}
            if not parts:
                silent = np.isnan(of_tree).all(axis=0)
                others = {n: np.where(silent, np.nan, v) for n, v in others.items()}
            parts |= others
            if self.length_neutral:
                parts["length_neutral"] = -length_effect(total(parts), one.lengths)
            found.append(parts)
        return found, log

    @property
    def _own_names(self) -> list[str]:
        """The components that need no function."""
        names = ("correct", "overlong", "format", "length", "environment", "length_neutral")
        return [name for name in names if getattr(self, name)]

    def _own_parts(self, answers: Answers) -> dict[str, np.ndarray]:
        """The weighted components that need no function."""
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
        if self.environment:
            if answers.environment is None and StopReason.EOS in answers.stops:
                raise StrategyError("reward.environment: there is no environment, which would give it")
            # Where there is one, EOS ends turns; a tree none of whose turns ended got nothing.
            given = np.zeros(len(answers.correct)) if answers.environment is None else answers.environment
            parts["environment"] = self.environment * given
        return parts


def is_correctness(reward: Reward) -> bool:
    """Whether a reward is what the verifier says and shaping of ours, so that accuracy says enough about a model."""
    return type(reward) is ShapedReward and not reward.functions and not reward.environment


def well_formed(answers: Answers) -> np.ndarray:
    """1 where a trajectory ended by itself and gives exactly one answer, complete and not empty; else 0."""
    pairs = zip(answers.finished, answers.texts, strict=True)
    return np.array([bool(end) and is_well_formed(answers.written, text) for end, text in pairs], np.float64)


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
    """Decode the responses of each problem's tree, without what was observed, and verify all of them in one batch."""
    trajectories = [tree.trajectories() for tree in trees]
    responses = [[decode(t.sampled_ids.tolist()) for t in of_tree] for of_tree in trajectories]
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
    their sum, nan where nothing says anything about a leaf, or its environment failed: that is not trained on. logged:
    metrics of the step that reward functions logged. columns: what they keep, one value per leaf.
    """

    verdicts: list[Verdict]
    correct: np.ndarray
    components: dict[str, np.ndarray]
    rewards: np.ndarray
    logged: dict[str, float] = field(default_factory=dict)
    columns: dict[str, list[Scalar]] = field(default_factory=dict)

    def known_sum(self, component: str) -> float:
        """A component, added up over the leaves that have a reward."""
        return float(self.components[component][np.isfinite(self.rewards)].sum())


def score_trees(
    reward: Reward, verified: Sequence[VerifiedTree], max_response_tokens: int, state: TrainerState = NO_STATE
) -> list[ScoredLeaves]:
    """Compute the rewards of the trees of a step; raises StrategyError for components that a reward must not return."""
    answers = [_answers_of(one, max_response_tokens, state) for one in verified]
    sees_step = False
    if isinstance(reward, StepReward) and _defined_first(type(reward), "of_step", "__call__"):
        sees_step = True
        components, log = reward.of_step(answers) if answers else ([], FunctionLog())
    else:
        components, log = [reward(one) for one in answers], FunctionLog()
    logged = {name: float(np.mean(values)) for name, values in log.metrics.items()}
    ends = np.cumsum([0, *(len(one.texts) for one in answers)])
    scored = []
    for i, (one, returned) in enumerate(zip(answers, components, strict=True)):
        own = _checked_components(type(reward).__name__, returned, len(one.texts), may_abstain=sees_step)
        columns = {name: values[ends[i] : ends[i + 1]] for name, values in log.columns.items()}
        is_lost = np.array([stop in LOST for stop in one.stops], bool)
        rewards = np.where(is_lost, np.nan, total(own)) if is_lost.any() else total(own)
        scored.append(
            ScoredLeaves(
                verdicts=verified[i].verdicts,
                correct=one.correct,
                components=own,
                rewards=rewards,
                logged=logged,
                columns=columns,
            )
        )
    return scored


def _defined_first(cls: type, name: str, other: str) -> bool:
    """Whether a subclass that overrides one method of the two has not overridden the other alone."""
    return next(name in vars(c) for c in cls.__mro__ if name in vars(c) or other in vars(c))


def _answers_of(verified: VerifiedTree, max_response_tokens: int, state: TrainerState) -> Answers:
    trajectories = verified.trajectories
    return Answers(
        correct=np.array([verdict.correct for verdict in verified.verdicts], np.float64),
        texts=tuple(verified.responses),
        lengths=np.array([len(t.sampled_ids) for t in trajectories]),
        finished=np.array([t.stop in ENDED_ITSELF for t in trajectories]),
        max_response_tokens=max_response_tokens,
        written=verified.written,
        problem=verified.problem,
        token_ids=tuple(t.sampled_ids.tolist() for t in trajectories),
        stops=tuple(t.stop for t in trajectories),
        state=state,
        environment=_environment_rewards(verified.tree),
        environments=tuple(verified.tree.environments.get(t.leaf) for t in trajectories if verified.tree.environments),
    )


def _environment_rewards(tree: Tree) -> np.ndarray:
    """float64 [L]: what the environment gave on the way to each leaf; 0 where no turn has ended."""
    return np.array([sum(tree.turn_rewards(leaf)) for leaf in tree.leaves()], np.float64)


def _checked_components(name: str, components: object, num_leaves: int, may_abstain: bool) -> dict[str, np.ndarray]:
    """The components as float64 [L] each; raises StrategyError for what they cannot be."""
    if not isinstance(components, Mapping) or not components:
        raise StrategyError(f"reward: {name} returned no component, got {components!r:.100}")
    checked = {}
    for key, given in components.items():
        if key in RESERVED:
            raise StrategyError(f"reward: {name} returned a component named {key!r}, which is that of their sum")
        try:
            values = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            values = np.zeros(0)
        bad = np.isinf(values) if may_abstain else ~np.isfinite(values)
        if np.shape(values) != (num_leaves,) or np.any(bad):
            raise StrategyError(
                f"reward: {name} must return {num_leaves} finite numbers as {key!r}, got {given!r:.200}"
            )
        checked[str(key)] = values
    return checked


def component_metrics(scored: Sequence[ScoredLeaves]) -> dict[str, float]:
    """reward/<component>: mean over the leaves of the step that have a reward; they sum to reward/mean. A tree without
    it counts as 0. reward_metrics/<name>: what reward functions logged, the mean over trees."""
    num_leaves = sum(int(np.count_nonzero(np.isfinite(s.rewards))) for s in scored)
    names = dict.fromkeys(name for s in scored for name in s.components)
    sums = {name: sum(s.known_sum(name) for s in scored if name in s.components) for name in names}
    logged: dict[str, list[float]] = {}
    for name, value in (item for s in scored for item in s.logged.items()):
        logged.setdefault(f"reward_metrics/{name}", []).append(value)
    means = {name: float(np.mean(values)) for name, values in logged.items()}
    return {f"reward/{name}": float(value) / max(num_leaves, 1) for name, value in sums.items()} | means


def verdict_metrics(scored: Sequence[ScoredLeaves]) -> dict[str, float]:
    """verify/<outcome>: share of the answers for each outcome other than a comparison."""
    outcomes = Counter(verdict.outcome for s in scored for verdict in s.verdicts)
    others = [outcome for outcome in Outcome if outcome not in {Outcome.GRADED, Outcome.UNVERIFIED}]
    return {f"verify/{outcome.replace(' ', '_')}": outcomes[outcome] / outcomes.total() for outcome in others}

"""How many children each active path gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from treepo.errors import SettingError, StrategyError
from treepo.grow.shape import TreeShape
from treepo.tree import Tree
from treepo.utils.numeric import largest_remainder, softmax


@dataclass(frozen=True, eq=False)
class Level:
    """A growing tree whose active paths have all finished a segment.

    shape: the tree's, with the width that its token budget allows at this level. nodes: the last node of each active
    path. num_finished: trajectories so far. num_just_finished: those that ended at this level. depth: segments from the
    prompt to here.
    """

    shape: TreeShape
    tree: Tree
    nodes: Sequence[int]
    num_finished: int
    num_just_finished: int
    depth: int

    @property
    def num_active(self) -> int:
        """Number of active paths."""
        return len(self.nodes)


class Branching(Protocol):
    """Returns the number of children of each active path, at least 1, in the order of `level.nodes`."""

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]: ...


@dataclass(frozen=True)
class InitialFork:
    """Children of the prompt, drawn uniformly from {low..high}.

    low = high is the fixed fork; 2..8 is the paper's "more initial divergence" (table 1). Never more than the width.
    """

    low: int = 2
    """Fewest children."""

    high: int = 2
    """Most children."""

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    def __call__(self, shape: TreeShape, rng: np.random.Generator) -> int:
        return min(shape.width, int(rng.integers(self.low, self.high + 1)))


def transferred_budget(level: Level, num_children: int) -> int:
    """Children of a whole level: finished paths pass their budget on to the active ones.

    total = max(a, min(max(w - F, 0), b (a + f))) with a active, F finished, f of them at this level (the
    paper's section 2.2, completed as in the authors' release). Active plus finished never exceed the width.
    """
    return within_width(level, num_children * (level.num_active + level.num_just_finished))


def share_evenly(total: int, num_paths: int, rng: np.random.Generator) -> list[int]:
    """`total` in equal shares; the remainder goes to randomly chosen paths, one each."""
    share, rest = divmod(total, num_paths)
    counts = np.full(num_paths, share)
    counts[rng.permutation(num_paths)[:rest]] += 1
    return counts.tolist()


@dataclass(frozen=True)
class EvenBranching:
    """The transferred budget in equal shares (the default).

    The authors' release gives the whole remainder to the last path.
    """

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        return share_evenly(transferred_budget(level, level.shape.num_children), level.num_active, rng)


@dataclass(frozen=True)
class RandomBranching:
    """Like EvenBranching, with the number of children drawn uniformly from {low..high} at each level."""

    low: int = 1
    """Fewest children."""

    high: int = 4
    """Most children."""

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        num_children = int(rng.integers(self.low, self.high + 1))
        return share_evenly(transferred_budget(level, num_children), level.num_active, rng)


@dataclass(frozen=True)
class TokenBudgetBranching:
    """As many children as decode at most `max_step_tokens` tokens in the next segment, in equal shares.

    Active paths are never dropped, so a level with more of them than the budget allows decodes more tokens.
    """

    max_step_tokens: int = 1024
    """Tokens that a tree decodes per level."""

    def __post_init__(self) -> None:
        if self.max_step_tokens < 1:
            raise SettingError("max_step_tokens", "must be at least 1", self.max_step_tokens)

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        if self.max_step_tokens < level.shape.segment_len:
            raise StrategyError(
                f"branching: TokenBudgetBranching with max_step_tokens={self.max_step_tokens} cannot decode a segment "
                f"of {level.shape.segment_len} tokens"
            )
        total = within_width(level, self.max_step_tokens // level.shape.segment_len)
        return share_evenly(total, level.num_active, rng)


@dataclass(frozen=True)
class LogprobBranching:
    """The transferred budget by the likelihood of the paths: 1 child each, the rest by softmax and largest remainder.

    A path's score is the mean or sum of its sampled log-probabilities; its share of the rest is softmax(score / T) over
    the tree's active paths, with the opposite sign if improbable paths are to get more. Source: section 4.4.
    """

    toward: Literal["low", "high"] = "low"
    """Whether improbable ("explore") or probable paths ("exploit") get more children."""

    span: Literal["segment", "path"] = "segment"
    """Score the last segment or the whole response."""

    reduction: Literal["mean", "sum"] = "mean"
    """Mean or sum of the log-probabilities."""

    temperature: float = 1.0
    """Temperature of the softmax, at the first level if a last one is given."""

    last_temperature: float | None = None
    """Temperature at the deepest level, reached along half a cosine; constant if not given (the paper tried 5 to 1)."""

    def __post_init__(self) -> None:
        for name in ("temperature", "last_temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(name, "must be positive", value)

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        scores = np.array([self._score(level, node) for node in level.nodes])
        logits = (scores if self.toward == "high" else -scores) / self.temperature_at(level)
        rest = transferred_budget(level, level.shape.num_children) - level.num_active
        return [1 + extra for extra in largest_remainder(rest, softmax(logits).tolist())]

    def temperature_at(self, level: Level) -> float:
        """The temperature of a level: `temperature` at depth 1, `last_temperature` at the last one that can fork."""
        if self.last_temperature is None:
            return self.temperature
        progress = (level.depth - 1) / max(level.shape.depth - 2, 1)
        return self.temperature + (self.last_temperature - self.temperature) * (1 - np.cos(np.pi * progress)) / 2

    def _score(self, level: Level, node: int) -> float:
        nodes = level.tree.path(node)[1:] if self.span == "path" else [node]
        logprobs = np.concatenate([level.tree.logprobs(i) for i in nodes])
        return float(logprobs.mean() if self.reduction == "mean" else logprobs.sum())


def _check_range(low: int, high: int) -> None:
    if low < 1:
        raise SettingError("low", "must be at least 1", low)
    if high < low:
        raise SettingError("high", f"must be at least low = {low}", high)


def within_width(level: Level, wanted: int) -> int:
    """At least one child for each active path, and no more than trajectories are missing."""
    return max(level.num_active, min(level.shape.width - level.num_finished, wanted))

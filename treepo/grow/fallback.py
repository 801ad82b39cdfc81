"""Where a tree without active paths grows again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from treepo.errors import SettingError
from treepo.grow.shape import TreeShape
from treepo.tree import ENDED_ITSELF, ROOT, StopReason
from treepo.utils.numeric import softmax


@dataclass(frozen=True, eq=False)
class FinishedPath:
    """One finished trajectory.

    leaf: its last node. stop: why it ended. logprobs: float32 [n], sampled log-probabilities of its n response tokens.
    is_open: whether it begins an answer that it does not complete. turn_starts: response tokens before each of its
    turns.
    """

    leaf: int
    stop: StopReason
    logprobs: np.ndarray
    is_open: bool = False
    turn_starts: tuple[int, ...] = (0,)

    @property
    def response_len(self) -> int:
        """Response tokens."""
        return len(self.logprobs)


@dataclass(frozen=True)
class BacktrackPoint:
    """A point of the trajectory to `leaf`: after its first `num_kept` response tokens; 0 is the end of the prompt."""

    leaf: int
    num_kept: int


FROM_PROMPT = BacktrackPoint(ROOT, 0)


class Fallback(Protocol):
    """Returns at least one point to grow from, in order of use; it is called again when all have been used.

    None gives the tree up: it stays with the trajectories it has.
    """

    def __call__(
        self, finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator
    ) -> list[BacktrackPoint] | None: ...


@dataclass(frozen=True)
class NoFallback:
    """A tree ends when no path is active, perhaps with fewer than `width` trajectories."""

    def __call__(self, finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator) -> None:
        return None


@dataclass(frozen=True)
class Backtrack:
    """Backtracks into finished trajectories, one after the other; without a usable one, to the prompt.

    The default is the paper's: a random segment boundary of those that ended with an answer or EOS, in random order.
    Points inside a segment split its node; they lengthen responses and lower accuracy (section 4.2).
    """

    order: Literal["answered", "all", "by_reason", "longest", "long_answered"] = "answered"
    """Which trajectories: those with an answer or EOS, in random order; all, in random order; all, the best stop reason
    first; all, the longest first; those with an answer and at least `min_segments` segments, in random order."""

    noise: float = 0.0
    """Scale of the Gumbel noise on the ranks of `by_reason`; 0 is strict."""

    min_segments: int = 2
    """Fewest segments of a trajectory that `long_answered` uses."""

    cut: Literal["boundary", "unlikely_token", "unlikely_block", "likely_block", "prompt", "turn"] = "boundary"
    """Where: at a random boundary of windows; before the least likely token; before a block of `block_len` tokens that
    is drawn by the softmax of its mean log-probability, unlikely or likely ones preferred; at the prompt; where one of
    its turns begins, drawn at random."""

    window: int | None = None
    """Tokens per window of `boundary`; `tree.segment_len` if not given."""

    max_windows: int | None = None
    """Most windows that `boundary` drops; no limit if not given."""

    block_len: int = 128
    """Tokens per block."""

    temperature: float = 1.0
    """Temperature of the softmax over blocks."""

    def __post_init__(self) -> None:
        for name in ("window", "max_windows", "block_len", "min_segments"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(name, "must be at least 1", value)
        if self.noise < 0:
            raise SettingError("noise", "must not be negative", self.noise)
        if not self.temperature > 0:
            raise SettingError("temperature", "must be positive", self.temperature)

    def __call__(
        self, finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator
    ) -> list[BacktrackPoint]:
        ordered = self.ordered(finished, shape, rng)
        return [BacktrackPoint(path.leaf, self.num_kept(path, shape, rng)) for path in ordered] or [FROM_PROMPT]

    def ordered(
        self, finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator
    ) -> list[FinishedPath]:
        """The usable trajectories in the order in which they are used."""
        match self.order:
            case "answered":
                usable = [f for f in finished if f.stop in ENDED_ITSELF]
            case "long_answered":
                min_len = shape.boundary(self.min_segments - 1)
                usable = [f for f in finished if f.stop == StopReason.ANSWER and f.response_len > min_len]
            case "all" | "by_reason" | "longest":
                usable = list(finished)
        # Shuffled first in every order, so that ties are broken at random.
        usable = [usable[i] for i in rng.permutation(len(usable))]
        if self.order == "longest":
            return sorted(usable, key=lambda f: -f.response_len)
        if self.order == "by_reason":
            ranks = np.array([reason_rank(f) for f in usable]) - self.noise * rng.gumbel(size=len(usable))
            return [usable[i] for i in np.argsort(ranks, kind="stable")]
        return usable

    def num_kept(self, path: FinishedPath, shape: TreeShape, rng: np.random.Generator) -> int:
        """Response tokens of a trajectory that are kept, fewer than it has."""
        match self.cut:
            case "boundary":
                return self._boundary(path.response_len, shape, rng)
            case "unlikely_token":
                return int(path.logprobs.argmin())
            case "unlikely_block" | "likely_block":
                return self._block(path.logprobs, rng)
            case "prompt":
                return 0
            case "turn":
                return int(rng.choice(path.turn_starts))

    def _boundary(self, response_len: int, shape: TreeShape, rng: np.random.Generator) -> int:
        """The end of the first n - k windows of n = ceil(length / window), k ~ U{1..min(n, max_windows)}."""
        num_windows = -(-response_len // self.window) if self.window else shape.num_segments(response_len)
        dropped = int(rng.integers(1, min(num_windows, self.max_windows or num_windows) + 1))
        kept = num_windows - dropped
        return kept * self.window if self.window else shape.boundary(kept)

    def _block(self, logprobs: np.ndarray, rng: np.random.Generator) -> int:
        starts = np.arange(0, len(logprobs), self.block_len)
        means = np.array([logprobs[start : start + self.block_len].mean() for start in starts], np.float64)
        logits = (means if self.cut == "likely_block" else -means) / self.temperature
        return int(starts[rng.choice(len(starts), p=softmax(logits))])


def reason_rank(path: FinishedPath) -> int:
    """0 for an answer, then an incomplete answer, EOS or the environment's end, the deepest level or the last turn, the
    longest response, repetition or an environment that failed."""
    if path.is_open and path.stop != StopReason.ANSWER:
        return 1
    ranks = {StopReason.ANSWER: 0, StopReason.EOS: 2, StopReason.ENV_DONE: 2, StopReason.DEPTH: 3, StopReason.TURNS: 3}
    return ranks.get(path.stop, 4 if path.stop == StopReason.LENGTH else 5)

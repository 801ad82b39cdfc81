"""Why a path ends."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from treepo.data.problem import Decode
from treepo.errors import StrategyError
from treepo.grow.shape import TreeShape
from treepo.tree import StopReason
from treepo.utils.text import last_box


def no_text(token_ids: Sequence[int]) -> str:  # noqa: ARG001 - it is a Decode
    """The Decode of those who have no tokenizer: raises StrategyError, since a stop rule wants to read."""
    raise StrategyError("stopping: a rule on answers or repetition reads text, but there is no tokenizer (decode)")


@dataclass(frozen=True)
class PathEnd:
    """The end of a path after a new segment.

    response_ids: all its tokens below the prompt; segment_ids: the new ones among them; ended: EOS was drawn.
    num_segments: those begun so far; see TreeShape.num_segments.
    """

    response_ids: Sequence[int]
    segment_ids: Sequence[int]
    ended: bool
    num_segments: int
    shape: TreeShape
    decode: Decode


class Stopping(Protocol):
    """The reason why a path ends here, or None if it goes on; a path that drew EOS must end."""

    def __call__(self, end: PathEnd) -> StopReason | None: ...


def repeats(text: str, length: int, count: int) -> bool:
    """Whether any substring of `length` characters occurs at least `count` times, overlaps included."""
    windows = Counter(text[i : i + length] for i in range(len(text) - length + 1))
    return bool(windows) and max(windows.values()) >= count


@dataclass(frozen=True)
class StopRules:
    """The paper's reasons; the first that holds is kept on the leaf.

    In order: repetition in the new segment (if it is checked first), a complete answer, EOS, the longest response,
    the deepest level, repetition (if it is checked last). Rewards are never looked at.
    """

    answer: Literal["answer_and_eos", "answer", "never"] = "answer_and_eos"
    """What completes an answer: a closed box followed by EOS, or the closed box alone."""

    repetition: Literal["first", "last", "never"] = "first"
    """When the new segment is checked for repetition."""

    repetition_len: int = 32
    """Characters of the repeated text."""

    repetition_count: int = 8
    """Occurrences that count as repetition."""

    def __post_init__(self) -> None:
        for name in ("repetition_len", "repetition_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def __call__(self, end: PathEnd) -> StopReason | None:
        if self.repetition == "first" and self._repeats(end):
            return StopReason.REPETITION
        if self._answered(end):
            return StopReason.ANSWER
        if end.ended:
            return StopReason.EOS
        if end.shape.max_response_len is not None and len(end.response_ids) >= end.shape.max_response_len:
            return StopReason.LENGTH
        # An aligned tree may reach its longest response in fewer segments.
        if end.num_segments >= end.shape.depth or len(end.response_ids) >= end.shape.max_response_tokens:
            return StopReason.DEPTH
        if self.repetition == "last" and self._repeats(end):
            return StopReason.REPETITION
        return None

    def _repeats(self, end: PathEnd) -> bool:
        return repeats(end.decode(end.segment_ids), self.repetition_len, self.repetition_count)

    def _answered(self, end: PathEnd) -> bool:
        if self.answer == "never" or (self.answer == "answer_and_eos" and not end.ended):
            return False
        return last_box(end.decode(end.response_ids)) is not None

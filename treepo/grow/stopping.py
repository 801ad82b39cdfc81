"""Why a path ends."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from treepo.data.problem import AnswerFormat, Decode
from treepo.errors import SettingError, StrategyError
from treepo.grow.shape import TreeShape
from treepo.tree import StopReason


@dataclass(frozen=True)
class PathEnd:
    """The end of a path after a new segment.

    response_ids: all its tokens below the prompt. segment_ids: the new ones among them. ended: EOS was drawn.
    num_segments: those begun so far; see TreeShape.num_segments. decode, answers: None where nothing can be read.
    """

    response_ids: Sequence[int]
    segment_ids: Sequence[int]
    ended: bool
    num_segments: int
    shape: TreeShape
    decode: Decode | None = None
    answers: AnswerFormat | None = None

    def response(self) -> str:
        """The whole response as text."""
        return self._text(self.response_ids)

    def segment(self) -> str:
        """The new segment as text."""
        return self._text(self.segment_ids)

    def has_answer(self) -> bool:
        """Whether the response holds a complete answer."""
        response = self.response()
        if self.answers is None:
            raise StrategyError("stopping: a rule on answers needs to know how they are written (answers)")
        return self.answers.answer_end(response, self.ended) is not None

    def has_open_answer(self) -> bool:
        """Whether the response begins an answer that it does not complete; False where nothing can be read."""
        if self.decode is None or self.answers is None:
            return False
        return self.answers.has_open_answer(self.response())

    def _text(self, token_ids: Sequence[int]) -> str:
        if self.decode is None:
            raise StrategyError("stopping: a rule reads text, but there is no tokenizer (decode)")
        return self.decode(token_ids)


class Stopping(Protocol):
    """Returns why a path ends here, or None if it goes on; a path that drew EOS must end."""

    def __call__(self, end: PathEnd) -> StopReason | None: ...


def repeats(text: str, length: int, count: int) -> bool:
    """Whether any substring of `length` characters occurs at least `count` times, overlaps included."""
    windows = Counter(text[i : i + length] for i in range(len(text) - length + 1))
    return bool(windows) and max(windows.values()) >= count


@dataclass(frozen=True)
class StopRules:
    """The paper's stop reasons; the first that holds becomes the leaf's.

    In order: repetition in the new segment (if it is checked first), a complete answer or a stop string, EOS, the
    longest response, the deepest level, repetition (if it is checked last). Rewards are never looked at.
    """

    answer: Literal["answer_and_eos", "answer", "never"] = "answer_and_eos"
    """What ends a path with an answer: a complete answer and EOS, or the complete answer alone. The verifier says where
    an answer ends."""

    repetition: Literal["first", "last", "never"] = "first"
    """When the new segment is checked for repetition."""

    repetition_len: int = 32
    """Characters of the repeated text."""

    repetition_count: int = 8
    """Occurrences that count as repetition."""

    stop_strings: tuple[str, ...] = ()
    """Texts that end a path as an answer does, after the segment in which the response first contains one. Special
    tokens are not part of the text."""

    def __post_init__(self) -> None:
        if "" in self.stop_strings:
            raise SettingError("stop_strings", "must not be empty texts", list(self.stop_strings))
        for name in ("repetition_len", "repetition_count"):
            if getattr(self, name) < 1:
                raise SettingError(name, "must be at least 1", getattr(self, name))

    def __call__(self, end: PathEnd) -> StopReason | None:
        shape, response_len = end.shape, len(end.response_ids)
        if self.repetition == "first" and self._repeats(end):
            return StopReason.REPETITION
        if (self.answer == "answer" or (self.answer == "answer_and_eos" and end.ended)) and end.has_answer():
            return StopReason.ANSWER
        if self.stop_strings and any(text in end.response() for text in self.stop_strings):
            return StopReason.ANSWER
        if end.ended:
            return StopReason.EOS
        if shape.max_response_len is not None and response_len >= shape.max_response_len:
            return StopReason.LENGTH
        # An aligned tree may reach its longest response in fewer segments.
        if end.num_segments >= shape.depth or response_len >= shape.max_response_tokens:
            return StopReason.DEPTH
        if self.repetition == "last" and self._repeats(end):
            return StopReason.REPETITION
        return None

    def _repeats(self, end: PathEnd) -> bool:
        return repeats(end.segment(), self.repetition_len, self.repetition_count)

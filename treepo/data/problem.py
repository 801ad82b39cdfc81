"""Problems, verdicts on responses to them, and the interface of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from treepo.utils.numeric import digest

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, without special tokens."""

MAX_EXTRACTED_LEN = 200
"""Characters of `Verdict.extracted_answer`; a longer answer is cut there and ends in a hash of the whole."""


class Outcome(StrEnum):
    """How a verdict came about.

    GRADED: the response's answer was compared with the ground truth, as text if not otherwise. NO_ANSWER: the response
    gives none: no complete box, or nothing in it. UNPARSED: the two answers differ as text, and one of them could not
    be understood or was too long to be parsed. TIMEOUT: the time limit passed. CRASHED: the verifier raised, or its
    process died or ran out of memory. UNVERIFIED: there is no verifier; rewards come from elsewhere.
    """

    GRADED = "graded"
    NO_ANSWER = "no answer"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Verdict:
    """Whether a response is right, and which answer it gives. Raises ValueError for a field out of its range.

    correct: 1.0 if the response is right, 0.0 if not; custom verifiers may give any number between; 0.0 unless the
    outcome is GRADED. extracted_answer: the answer that the response gives, which does not depend on the ground truth,
    for votes: answers with the same text are one answer, and so are those that the task's `are_equal` judges equal.
    None without.
    """

    correct: float
    outcome: Outcome
    extracted_answer: str | None

    def __post_init__(self) -> None:
        if not isinstance(self.outcome, Outcome):
            raise ValueError(f"outcome must be an Outcome, got {self.outcome!r:.100}")
        if self.extracted_answer is not None and not isinstance(self.extracted_answer, str):
            raise ValueError(f"extracted_answer must be text or None, got {self.extracted_answer!r:.100}")
        if not 0 <= self.correct <= 1:
            raise ValueError(f"correct must be between 0 and 1, got {self.correct}")
        if self.correct and self.outcome is not Outcome.GRADED:
            raise ValueError(f"correct must be 0 where the outcome is {self.outcome.value!r}, got {self.correct}")


def bounded(text: str) -> str:
    """The text with single spaces and without lone surrogates, at most MAX_EXTRACTED_LEN characters.

    Different texts stay different: one that is cut ends in a hash of the whole.
    """
    plain = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    if len(plain) <= MAX_EXTRACTED_LEN:
        return plain
    mark = digest(plain).hex()
    return f"{plain[: MAX_EXTRACTED_LEN - len(mark) - 1]}#{mark}"


def text_key(text: str) -> str:
    """A key that is the same for questions that differ only in white space."""
    return " ".join(text.split())


@dataclass(frozen=True)
class Problem:
    """One question with its ground truth.

    id: stable and unique; seeds are derived from it. prompt: the question as text; prompt_ids: the tokens that the
    model is conditioned on. dataset: name of the dataset it comes from, for metrics per dataset. columns: all fields of
    its record, as JSON can hold them, for verifiers and rewards.
    """

    id: str
    prompt: str
    prompt_ids: tuple[int, ...]
    ground_truth: str
    dataset: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)


@runtime_checkable
class AnswerFormat(Protocol):
    """How a final answer is written, so that a growing path can stop at it. Texts are untrusted and of any length."""

    def answer_end(self, text: str, ended: bool) -> int | None:
        """Return the index just past the last complete answer in the text, or None without one.

        ended: whether nothing follows the text (the model drew EOS), which completes an answer that runs to the end of
        its line; otherwise the next segment may go on in the middle of an answer.
        """
        ...

    def has_open_answer(self, text: str) -> bool:
        """Return whether the text begins an answer last that it does not complete."""
        ...


class Task(Protocol):
    """A source of problems and the judge of their answers."""

    @property
    def answers(self) -> AnswerFormat:
        """How its answers are written."""
        ...

    def training_problems(self, step: int, count: int, start: int | None = None) -> list[Problem]:
        """Return the problems of one training step, counted from 0, the same ones for the same task and step.

        `count` problems, none of them an evaluation problem; a source with fewer repeats some of them. start: how many
        problems the steps before have had, if not `count` each.
        """
        ...

    def eval_problems(self, count: int) -> list[Problem]:
        """Return problems that are never trained on, the same ones at every call.

        Distinct, and `count` of them, or all there are if that is fewer.
        """
        ...

    def verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Return the verdict on each pair of a problem and a response (decoded, without special tokens; untrusted)."""
        ...

    def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether the two extracted answers of each pair are one answer, so that they share a vote."""
        ...

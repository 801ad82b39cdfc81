"""What is asked, and who says what is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, without special tokens."""


LONGEST_GIVEN = 200
"""Characters of `Verdict.extracted_answer`; a longer answer is cut there and told apart from others by a hash."""


class Outcome(StrEnum):
    """How a verdict came about."""

    GRADED = "graded"
    """The response's answer was compared with the known one, as text if not otherwise."""

    NO_ANSWER = "no answer"
    """The response gives none: no complete box, or nothing in it."""

    UNPARSED = "unparsed"
    """The two answers differ as text, and one of them could not be understood or was too long to be tried."""

    TIMEOUT = "timeout"
    """The time limit passed."""

    CRASHED = "crashed"
    """The verifier raised, or its process died or ran out of memory."""


@dataclass(frozen=True)
class Verdict:
    """Whether a response is right, and which answer it gives.

    Raises ValueError if a field is not what it says below.
    """

    correct: float
    """1.0 if the response is right, 0.0 if not; a function of one's own may say any number between."""

    outcome: Outcome
    """How the verdict came about; `correct` is 0.0 unless it is GRADED."""

    extracted_answer: str | None
    """The answer in a canonical form, for votes: equal for equal answers, whatever the known one is. None without."""

    def __post_init__(self) -> None:
        if not isinstance(self.outcome, Outcome):
            raise ValueError(f"outcome must be an Outcome, got {self.outcome!r:.100}")
        if self.extracted_answer is not None and not isinstance(self.extracted_answer, str):
            raise ValueError(f"given must be text or None, got {self.extracted_answer!r:.100}")
        if not 0 <= self.correct <= 1:
            raise ValueError(f"correct must be between 0 and 1, got {self.correct}")
        if self.correct and self.outcome is not Outcome.GRADED:
            raise ValueError(f"correct must be 0 where the outcome is {self.outcome.value!r}, got {self.correct}")


def bounded(text: str) -> str:
    """The text with single spaces and without lone surrogates, at most LONGEST_GIVEN characters.

    Different texts stay different: one that is cut ends in a hash of the whole.
    """
    plain = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    if len(plain) <= LONGEST_GIVEN:
        return plain
    digest = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
    return f"{plain[: LONGEST_GIVEN - len(digest) - 1]}#{digest}"


@dataclass(frozen=True)
class Problem:
    """One question together with its known answer."""

    id: str
    """Stable and unique; seeds are derived from it."""

    prompt: str
    """The text as asked."""

    prompt_ids: tuple[int, ...]
    """What the model is conditioned on."""

    ground_truth: str
    """The known answer."""

    dataset: str = ""
    """The set it is of, for figures by set."""


class Task(Protocol):
    """A source of problems and the judge of their answers."""

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """Return the problems of one training step, counted from 0, the same ones for the same task and step.

        `count` problems, none of them held out; a source with fewer asks some of them twice.
        """
        ...

    def eval_problems(self, count: int) -> list[Problem]:
        """Return problems that are never trained on, the same ones at every call.

        Distinct, and `count` of them, or all there are if that is fewer.
        """
        ...

    def verify(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Return the verdict on each pair of a problem and a response (decoded, without special tokens; untrusted)."""
        ...

"""What is asked, and who says what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from treepo.task.checking.verdict import Verdict


@dataclass(frozen=True)
class Problem:
    """One question together with its known answer."""

    id: str
    """Stable and unique; seeds are derived from it."""

    prompt: str
    """The text as asked."""

    prompt_ids: tuple[int, ...]
    """What the model is conditioned on."""

    answer: str
    """The known answer."""

    source: str = ""
    """The set it is of, for figures by set."""


class Task(Protocol):
    """A source of problems and the judge of their answers."""

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """Return the problems of one training step, counted from 0, the same ones for the same task and step.

        `count` problems, none of them held out; a source with fewer asks some of them twice.
        """
        ...

    def held_out_problems(self, count: int) -> list[Problem]:
        """Return problems that are never trained on, the same ones at every call.

        Distinct, and `count` of them, or all there are if that is fewer.
        """
        ...

    def judge(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Return the verdict on each pair of a problem and a response (decoded, without special tokens; untrusted)."""
        ...

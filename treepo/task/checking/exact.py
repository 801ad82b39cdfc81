"""Answers that are text."""

from dataclasses import dataclass

from treepo.task.boxed import last_box
from treepo.task.checking.verdict import Outcome, Verdict, bounded


@dataclass(frozen=True)
class ExactChecker:
    """The answer is the known one letter by letter, but for white space."""

    ignore_case: bool = False
    """Whether capital and small letters are the same."""

    mark: str = ""
    """The answer is what follows the last occurrence of this mark on its line, e.g. Answer:; empty: the last box."""

    def __call__(self, response: str, answer: str) -> Verdict:
        """See Checker."""
        found = self._found(response)
        given, known = (self._normal(text) for text in (found or "", answer))
        if not given:
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        return Verdict(float(given == known), Outcome.CHECKED, bounded(given))

    def written(self, answer: str) -> str:
        """The answer in a box, or behind the mark."""
        return f"{self.mark} {answer}" if self.mark else f"\\boxed{{{answer}}}"

    def _found(self, response: str) -> str | None:
        if not self.mark:
            return last_box(response)
        _, mark, rest = response.rpartition(self.mark)
        return rest.partition("\n")[0] if mark else None

    def _normal(self, text: str) -> str:
        plain = " ".join(text.split())
        return plain.casefold() if self.ignore_case else plain

"""Multiple choice."""

import re
from dataclasses import dataclass

from treepo.task.boxed import last_box
from treepo.task.checking.verdict import Outcome, Verdict, bounded

LONGEST_LABEL = 1000
"""Characters of a box in which a letter is looked for."""

_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|bf|rm)\b|\\[ ,;!]|[${}*]")
_SAID = re.compile(r"(?i:answer)(?:\s{0,3}(?i:is))?\s{0,3}:?\s{0,3}\**\s{0,3}\(?([A-Z])(?![A-Za-z0-9'])")


@dataclass(frozen=True)
class ChoiceChecker:
    r"""The letter of the chosen option: \boxed{B}, (B), \text{B}, B. or B) with the option's text, Answer: B.

    The last complete box counts; without one, the last "Answer: B" or "answer is B". Raises ValueError if `letters` is
    not made of different capital letters.
    """

    letters: str = "ABCDEFGHIJ"
    """The options' letters."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Z]+", self.letters) or len(set(self.letters)) < len(self.letters):
            raise ValueError(f"letters must be different capital letters A-Z, got {self.letters!r}")

    def __call__(self, response: str, answer: str) -> Verdict:
        """See Checker."""
        box = last_box(response)
        if box is None or not box.strip():
            given = self._said(response)
            if given is None:
                return Verdict(0.0, Outcome.NO_ANSWER, None)
        else:
            given = self._label(box)
        known = self._label(answer)
        if given is None or known is None:
            return Verdict(0.0, Outcome.UNPARSED, given or bounded(box or ""))
        return Verdict(float(given == known), Outcome.CHECKED, given)

    def written(self, answer: str) -> str:
        """The answer in a box."""
        return f"\\boxed{{{answer}}}"

    def _label(self, text: str) -> str | None:
        """The letter that a label, alone or before its option, begins with."""
        plain = _FONT.sub(" ", text[:LONGEST_LABEL]).strip()
        match = re.match(r"\(\s*([A-Za-z])\s*\)|([A-Za-z])\s*(?:[.:)]|\Z)", plain)
        letter = (match[1] or match[2]).upper() if match else ""
        return letter if letter and letter in self.letters else None

    def _said(self, text: str) -> str | None:
        said = [match[1] for match in _SAID.finditer(text) if match[1] in self.letters]
        return said[-1] if said else None

"""Answers that are numbers."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from treepo.task.boxed import last_box
from treepo.task.checking.number import last_number
from treepo.task.checking.verdict import Outcome, Verdict, bounded

_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\^(?:\{[0-9]\}|[0-9])")
"""The power of a unit, m^2 or \\text{cm}^{3}, which is no number of its own."""


@dataclass(frozen=True)
class NumericChecker:
    """The last number of the last complete box is the known one; currency, percent signs and units are passed over.

    Numbers are compared exactly: decimals, fractions a/b, thousands with commas, powers of ten. Raises ValueError if
    `rel_tol` is negative or not finite.
    """

    rel_tol: float = 0.0
    """Largest difference that counts as equal, as a share of the known number."""

    in_text: bool = False
    """Whether the last number of the whole response counts where it has no complete box."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rel_tol) and self.rel_tol >= 0):
            raise ValueError(f"rel_tol must be a number of at least 0, got {self.rel_tol}")

    def __call__(self, response: str, answer: str) -> Verdict:
        """See Checker."""
        found = last_box(response)
        if found is None and self.in_text:
            found = response
        if found is None or not found.strip():
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        given, known = (last_number(_UNIT_POWER.sub("", text)) for text in (found, answer))
        if given is None or known is None:
            is_same = found.strip() == answer.strip()
            return Verdict(float(is_same), Outcome.CHECKED if is_same else Outcome.UNPARSED, bounded(found))
        right = abs(given - known) <= Fraction(self.rel_tol) * abs(known)
        return Verdict(float(right), Outcome.CHECKED, bounded(str(given)))

    def written(self, answer: str) -> str:
        """The answer in a box."""
        return f"\\boxed{{{answer}}}"

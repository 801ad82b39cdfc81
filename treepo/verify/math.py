"""Mathematical answers, read whole and compared by what they mean."""

import importlib
import math
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from treepo.data.problem import Outcome, Verdict, bounded
from treepo.errors import SettingError
from treepo.verify.base import FinalAnswer

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


@dataclass(frozen=True)
class MathVerifier(FinalAnswer):
    """The answer means the same as the ground truth: as a number, an expression, a set, a quantity, or as words.

    Nothing in an answer is passed over that the settings do not name; what cannot be read is right only as the same
    text. See docs/verifying.md for what is the same by default and what with each setting.
    """

    units: Literal["lenient", "strict"] = "lenient"
    """lenient: a unit may be left out, and 100 cm is 1 m. strict: the same unit in both, or none in both."""

    percent: Literal["lenient", "strict"] = "lenient"
    """lenient: 50% is 0.5 and 50. strict: it is 0.5 only."""

    order: Literal["lenient", "strict"] = "lenient"
    """lenient: a list without brackets may be given in any order. strict: in the same order only."""

    rel_tol: float = 0.0
    """Largest difference of two numbers that counts as equal, as a share of the ground truth."""

    abs_tol: float = 0.0
    """Largest difference of two numbers that counts as equal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("units", "percent", "order"):
            if getattr(self, name) not in {"lenient", "strict"}:
                raise SettingError(name, "must be lenient or strict", getattr(self, name))
        for name in ("rel_tol", "abs_tol"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise SettingError(name, "must be a number of at least 0", getattr(self, name))
        if self.rel_tol >= 1:
            raise SettingError("rel_tol", "must be below 1: with it every number would be right", self.rel_tol)

    def load(self) -> None:
        """Import the reader of answers and what computes numbers that are not rational."""
        _judging()
        importlib.import_module("mpmath")

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        found = self.extract(response)
        if found is None or not found.strip():
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        if _WHOLE.fullmatch(found) and _WHOLE.fullmatch(ground_truth) and not (self.rel_tol or self.abs_tol):
            return Verdict(float(int(found) == int(ground_truth)), Outcome.GRADED, str(int(found)))
        is_same, text = _judging().judge(found, ground_truth, self._rules())
        return Verdict(float(is_same or 0), Outcome.UNPARSED if is_same is None else Outcome.GRADED, bounded(text))

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two extracted answers are the same answer, as `__call__` would judge either by the other."""
        return _judging().are_equal(first, second, self._rules())

    def _rules(self) -> Any:
        return _judging().rules(self.units, self.percent, self.order, rel_tol=self.rel_tol, abs_tol=self.abs_tol)


def _judging() -> ModuleType:
    # Imported late: only workers need it, and settings are read without.
    return importlib.import_module("treepo.verify.expressions.judging")

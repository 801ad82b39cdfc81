"""Answers that are numbers."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from treepo.data.problem import Outcome, Verdict, bounded
from treepo.errors import SettingError
from treepo.verify.base import FinalAnswer
from treepo.verify.numbers import Number, find_numbers, read_number

MAX_ANSWER_LEN = 1000
"""Characters of an answer in which a number is looked for."""


@dataclass(frozen=True)
class NumericVerifier(FinalAnswer):
    """The only number of the answer is the ground truth; words, currency, percent signs and units are passed over.

    Numbers are compared exactly: decimals, fractions, mixed numbers, thousands, powers of ten. Of an equation, what
    follows the last equals sign counts. An answer of several numbers, of a number in a formula, or with "or" is none.
    """

    rel_tol: float = 0.0
    """Largest difference that counts as equal, as a share of the ground truth."""

    abs_tol: float = 0.0
    """Largest difference that counts as equal; the larger one of the two tolerances decides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rel_tol", "abs_tol"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(name, "must be a number of at least 0", value)
        if self.rel_tol >= 1:
            raise SettingError("rel_tol", "must be below 1: with it every number would be right", self.rel_tol)

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        found = self.extract(response)
        if found is None or not found.strip():
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        extracted, expected = number_of(found), number_of(ground_truth)
        if extracted is None or expected is None:
            is_same = found.strip() == ground_truth.strip()
            return Verdict(float(is_same), Outcome.GRADED if is_same else Outcome.UNPARSED, bounded(found))
        is_right = self._are_close(extracted, expected, abs(expected))
        return Verdict(float(is_right), Outcome.GRADED, bounded(str(extracted)))

    def are_equal(self, first: str, second: str) -> bool:
        """Return whether two extracted answers are the same number, within the tolerance of the larger one."""
        if first == second:
            return True
        one, other = read_number(first), read_number(second)
        if one is None or other is None:
            return False
        return self._are_close(one, other, max(abs(one), abs(other)))

    def _are_close(self, first: Fraction, second: Fraction, scale: Fraction) -> bool:
        return abs(first - second) <= max(Fraction(self.rel_tol) * scale, Fraction(self.abs_tol))


_EQUALS = re.compile(r"(=|\\approx(?![A-Za-z])|\u2248|\\simeq(?![A-Za-z])|\u2245)")
_RELATION = re.compile(r"[<>\u2264\u2265\u2260]|!=|\\(?:n?eq?|neq|[lg]eq?(?:slant)?|[lg]t)(?![A-Za-z])")
_UNIT_POWER = re.compile(
    r"(?:(?<=[A-Za-z]{2})|(?<=[A-Za-z]\})|(?<=[mshgdLNKJAVWCT]))"
    r"(?:\^(?:\{-?[0-9]\}|-?[0-9])|[\u207b\u00b2\u00b3\u00b9]+)"
)
"""The power of a unit, m^2 or \\text{cm}^{3}, which is no number of its own."""

_DEGREE_OR_ORDINAL = re.compile(
    r"\^\s?(?:\\circ(?![A-Za-z])|\{\s?(?:\\circ|(?:\\(?:text|mathrm)\{)?(?:st|nd|rd|th)\}?)\s?\})"
)
_SEVERAL = re.compile(r"[;]|,(?![0-9]{3})|\band\b")
"""Stands between two equations, of which neither is the answer alone."""

_BOLD = re.compile(r"(?<![0-9])\*\*|\*\*(?![-0-9({])|__")
_LEADING_SIGN = re.compile(r"^([\s$({\[*]*)([-\u2212\u2013])\s+(?=[0-9.\\])")
_MACRO = re.compile(r"\\[A-Za-z]+")
_PASSED_OVER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|dollar|euro)?|math(?:rm|bf|it|sf|tt)|[mh]box|rm|bf|it|emph|boldsymbol|bm|boxed|fbox"
    r"|underline|left|right|[bB]igl?|[bB]igr|displaystyle|textstyle|q?quad|thinspace|circ|degree|cdot|sim|therefore"
    r"|euro|pounds|yen|mu|Omega|percent)(?![A-Za-z])"
)
"""Macros beside a number that change nothing about it; any other makes it part of a formula."""

_FORMULA = re.compile(
    r"[+|\u221a\u221b\u03c0\u221e\u00b1\u00d7\u00f7^!]"
    r"|(?<![A-Za-z])(?:sqrt|root|pi|log|ln|lg|exp|sin|cos|tan)(?![A-Za-z])"
    r"|(?<![A-Za-z])[A-Za-z]\s?[-\u2212\u2013]\s?\0|\0\s?[-\u2212\u2013]\s?[A-Za-z](?![A-Za-z])"
)
_HEDGE = re.compile(
    r"\b(?:or|not|neither|between|except)\b|\bat (?:least|most)\b|\bup to\b"
    r"|\b(?:more|less|fewer|greater|larger|smaller|other) than\b[^\0]{0,9}\0",
    re.IGNORECASE,
)
_SCALE = re.compile(
    r"\0[\s}~\\,$]{0,4}(?:\\(?:text|mathrm)\{\s?)?(hundred|thousand|million|billion|trillion)s?\b", re.I
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def number_of(answer: str) -> Fraction | None:
    """The number that an answer gives, or None if it gives none, or several, or something else beside it."""
    text = answer.strip()
    if len(text) > MAX_ANSWER_LEN or "\0" in text or _RELATION.search(text):
        return None
    *left, last = _EQUALS.split(_UNIT_POWER.sub("", _DEGREE_OR_ORDINAL.sub("", text)))
    if any(_SEVERAL.search(side) for side in left[2::2]):
        return None
    value = _only_number(last)
    for side, sign in zip(left[::2], left[1::2], strict=True):
        # 43 = 42 is neither.
        number = read_number(side)
        if sign == "=" and number is not None and number != value:
            return None
    return value


def _only_number(text: str) -> Fraction | None:
    text = _LEADING_SIGN.sub(r"\1\2", _BOLD.sub("", text))
    numbers = list(find_numbers(text))
    if len(numbers) > 1:
        numbers = [number for number in numbers if not number.is_attached]
    if len(numbers) != 1 or numbers[0].value is None:
        return None
    # A NUL stands for the number.
    around = _around(text, numbers[0])
    if _FORMULA.search(around) or _HEDGE.search(around):
        return None
    if _MACRO.search(_PASSED_OVER.sub("", around)):
        return None
    scale = _SCALE.search(around)
    return numbers[0].value * 10 ** _SCALES[scale[1].lower()] if scale else numbers[0].value


def _around(text: str, number: Number) -> str:
    return f"{text[: number.start]}\0{text[number.end :]}"

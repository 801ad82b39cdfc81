"""Mathematical answers, compared as text, as numbers, and by math-verify."""

import importlib
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from types import ModuleType
from typing import Any

from treepo.data.problem import Outcome, Verdict, bounded
from treepo.verify.base import FinalAnswer
from treepo.verify.numbers import read_number

MAX_PARSED_LEN = 500
"""Characters of an answer that is given to the parser."""

MAX_PARSED_DEPTH = 10
"""Brackets within brackets of an answer that is given to the parser, whose time grows steeply with them."""

ROUNDING = Fraction(1, 10_000)
"""Largest difference between a decimal and the number that it may be rounded from, as a share of that."""


@dataclass(frozen=True)
class MathVerifier(FinalAnswer):
    """The answer is the ground truth: as text, as the same number, or by math-verify.

    Boxes may nest; of boxes within a box the innermost that opens last counts. An answer of more than MAX_PARSED_LEN
    characters is right only letter by letter.
    """

    def load(self) -> None:
        """Import math-verify, and let it build its tables."""
        _parse("\\frac{1}{2}(x+1)^2")

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        found = self.extract(response)
        if found is None or not found.strip():
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        extracted, expected = _plain(found), _plain(ground_truth)
        number, expected_number = read_number(extracted), read_number(expected)
        if number is not None and expected_number is not None:
            # Whole numbers are equal only if they are the same; math-verify rounds others to 6 decimals.
            are_whole = number.denominator == expected_number.denominator == 1
            if number == expected_number or are_whole:
                return Verdict(float(number == expected_number), Outcome.GRADED, bounded(str(number)))
        parsed = _parse(extracted)
        text = extracted if number is None else str(number)
        if parsed and number is None:
            text = _symbolic().canonical_text(parsed)
        if extracted == expected:
            return Verdict(1.0, Outcome.GRADED, bounded(text))
        parsed_expected = _parse(expected)
        is_right = (
            bool(parsed and parsed_expected)
            and _may_be_equal(number, expected_number)
            and _symbolic().are_equal(parsed_expected, parsed)
        )
        is_understood = all(parts and not isinstance(parts[0], str) for parts in (parsed, parsed_expected))
        outcome = Outcome.GRADED if is_right or is_understood else Outcome.UNPARSED
        return Verdict(float(is_right), outcome, bounded(text))


def _plain(text: str) -> str:
    """Without dollar signs and with single spaces."""
    return " ".join(text.replace("\\$", "").replace("$", "").split())


def _may_be_equal(number: Fraction | None, expected: Fraction | None) -> bool:
    """Whether two numbers differ by rounding at most; math-verify's 6 decimals are none of a very small number."""
    return number is None or expected is None or abs(number - expected) <= ROUNDING * abs(expected)


def _parse(text: str) -> list[Any]:
    """What math-verify reads: an expression, if it could make one, and the text as it normalises it; [] if too much."""
    nesting = accumulate(1 if c in "({[" else -1 if c in ")}]" else 0 for c in text)
    if len(text) > MAX_PARSED_LEN or max(nesting, default=0) > MAX_PARSED_DEPTH:
        return []
    return _symbolic().read(text)


def _symbolic() -> ModuleType:
    # Imported late: sympy takes most of a second, and only workers need it.
    return importlib.import_module("treepo.verify.symbolic")

"""Mathematical answers in a box."""

import importlib
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from types import ModuleType
from typing import Any

from treepo.data.problem import Outcome, Verdict, bounded
from treepo.utils.text import last_box
from treepo.verify.verifiers import read_number

LONGEST_PARSED = 500
"""Characters of an answer that is given to the parser."""

DEEPEST_PARSED = 10
"""Brackets within brackets of an answer that is given to the parser, whose time grows steeply with them."""

ROUNDING = Fraction(1, 10_000)
"""Largest difference between a decimal and the number that it may be rounded from, as a share of that."""


@dataclass(frozen=True)
class MathVerifier:
    """The last complete box holds the known answer: as text, as the same number, or by math-verify.

    Boxes may nest; of boxes within a box the innermost that opens last counts. A box of more than LONGEST_PARSED
    characters is right only letter by letter.
    """

    def load(self) -> None:
        """Import math-verify, and let it build its tables."""
        _parsed("\\frac{1}{2}(x+1)^2")

    def __call__(self, response: str, answer: str) -> Verdict:
        """See Verifier."""
        box = last_box(response)
        if box is None or not box.strip():
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        given, known = _plain(box), _plain(answer)
        given_number, known_number = read_number(given), read_number(known)
        if given_number is not None and (given_number == known_number or _are_whole(given_number, known_number)):
            return Verdict(float(given_number == known_number), Outcome.GRADED, bounded(str(given_number)))
        parsed = _parsed(given)
        text = bounded(given if given_number is None else str(given_number))
        if parsed and given_number is None:
            text = bounded(_symbolic().canonical_text(parsed))
        if given == known:
            return Verdict(1.0, Outcome.GRADED, text)
        expected = _parsed(known)
        right = (
            bool(parsed and expected)
            and _are_near(given_number, known_number)
            and _symbolic().are_equal(expected, parsed)
        )
        is_understood = all(parts and not isinstance(parts[0], str) for parts in (parsed, expected))
        return Verdict(float(right), Outcome.GRADED if right or is_understood else Outcome.UNPARSED, text)

    def example_response(self, answer: str) -> str:
        """The answer in a box."""
        return f"\\boxed{{{answer}}}"


def _plain(text: str) -> str:
    """Without dollar signs and with single spaces."""
    return " ".join(text.replace("\\$", "").replace("$", "").split())


def _are_whole(*numbers: Fraction | None) -> bool:
    """Whether two numbers can only be equal if they are the same; math-verify rounds others to 6 decimals."""
    return all(number is not None and number.denominator == 1 for number in numbers)


def _are_near(given: Fraction | None, known: Fraction | None) -> bool:
    """Whether two numbers may be equal but for rounding; math-verify's 6 decimals are none of a very small number."""
    return given is None or known is None or abs(given - known) <= ROUNDING * abs(known)


def _parsed(text: str) -> list[Any]:
    """What math-verify reads: an expression, if it could make one, and the text as it normalises it; [] if too much."""
    if len(text) > LONGEST_PARSED or _depth(text) > DEEPEST_PARSED:
        return []
    return _symbolic().read(text)


def _depth(text: str) -> int:
    steps = (1 if c in "({[" else -1 if c in ")}]" else 0 for c in text)
    return max(accumulate(steps), default=0)


def _symbolic() -> ModuleType:
    # Imported late: sympy takes most of a second, and only workers need it.
    return importlib.import_module("treepo.verify.symbolic")

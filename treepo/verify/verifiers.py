"""Verifiers for exact text, choices, numbers, and functions of the user's own."""

import importlib
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

from treepo.data.problem import Outcome, Verdict, bounded
from treepo.utils.imports import make_importable
from treepo.utils.text import last_box


@dataclass(frozen=True)
class ExactVerifier:
    """The answer is the known one letter by letter, but for white space."""

    ignore_case: bool = False
    """Whether capital and small letters are the same."""

    mark: str = ""
    """The answer is what follows the last occurrence of this mark on its line, e.g. Answer:; empty: the last box."""

    def __call__(self, response: str, answer: str) -> Verdict:
        """See Verifier."""
        found = self._found(response)
        given, known = (self._normal(text) for text in (found or "", answer))
        if not given:
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        return Verdict(float(given == known), Outcome.GRADED, bounded(given))

    def example_response(self, answer: str) -> str:
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


LONGEST_LABEL = 1000
"""Characters of a box in which a letter is looked for."""

_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|bf|rm)\b|\\[ ,;!]|[${}*]")
_SAID = re.compile(r"(?i:answer)(?:\s{0,3}(?i:is))?\s{0,3}:?\s{0,3}\**\s{0,3}\(?([A-Z])(?![A-Za-z0-9'])")


@dataclass(frozen=True)
class ChoiceVerifier:
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
        """See Verifier."""
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
        return Verdict(float(given == known), Outcome.GRADED, given)

    def example_response(self, answer: str) -> str:
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


MOST_DIGITS = 100
"""Characters of a number that is read."""

LARGEST_EXPONENT = 400
"""Of the powers of ten that are read."""

_DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_NUMBER = re.compile(rf"[-+]?{_DECIMAL}(?:\s?/\s?{_DECIMAL})?")
_SPACED = re.compile(r"[-+]?[1-9][0-9]{0,2}(?: [0-9]{3})+(?:\.[0-9]*)?")
_BARE_FRACTION = re.compile(r"\\[dt]?frac\s?([0-9])\s?([0-9])(?![0-9])")
_MIXED = re.compile(r"(?<![0-9.,])([0-9]{1,9})\s?\\[dt]?frac\{([0-9]{1,9})\}\{([0-9]{1,9})\}")
_FRACTION = re.compile(r"(?<![0-9])(?<![0-9]\s)\\[dt]?frac\s?\{([0-9.,]{1,40})\}\s?\{([0-9.,]{1,40})\}")
_POWER = r"10\^(?:\{([-+]?[0-9]{1,9})\}|([0-9]))"
_SCIENTIFIC = re.compile(rf"(?<![0-9.,/])(?<!/\s)([0-9][0-9.,]*)\s?(?:\\times|\\cdot|\u00d7|\*)\s?{_POWER}")
_POWER_OF_TEN = re.compile(rf"(?<![0-9.,}}]){_POWER}")


def read_number(text: str) -> Fraction | None:
    r"""The exact number that the whole text is, or None if it is not one.

    72, -1,234.5, 1 000, .5, 3/4, \frac{3}{4}, 1\frac12, 2e3, 2 \times 10^3. None for more than MOST_DIGITS
    characters, exponents beyond LARGEST_EXPONENT, and division by zero.
    """
    if len(text) > MOST_DIGITS:
        return None
    plain = _rewritten(text.strip())
    if _SPACED.fullmatch(plain):
        plain = plain.replace(" ", "")
    return _value(plain) if _NUMBER.fullmatch(plain) else None


def last_number(text: str) -> Fraction | None:
    """The last number in the text, in linear time; None without one, or if the last is too long, or an exponent.

    A sign right behind a digit, a letter or a closing bracket subtracts and is no part of the number.
    """
    plain = _rewritten(text)
    ends = deque(_NUMBER.finditer(plain), maxlen=1)
    if not ends:
        return None
    found, start = ends[0].group(), ends[0].start()
    if plain.endswith(("^", "^{"), 0, start):
        return None
    if found[0] in "+-" and start > 0 and (plain[start - 1].isalnum() or plain[start - 1] in ")}]"):
        found = found[1:]
    return _value(found)


def _rewritten(text: str) -> str:
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\!", "").replace("\\,", " ")
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)
    # Before fractions are written a/b: 3/4 x 10^3 is not 3/(4 x 10^3).
    text = _SCIENTIFIC.sub(lambda match: f"{match[1]}e{match[2] or match[3]}", text)
    text = _POWER_OF_TEN.sub(lambda match: f"1e{match[1] or match[2]}", text)
    text = _MIXED.sub(lambda match: f"{int(match[1]) * int(match[3]) + int(match[2])}/{match[3]}", text)
    return _FRACTION.sub(r"\1/\2", text)


def _value(number: str) -> Fraction | None:
    """The value of a match of _NUMBER."""
    if len(number) > MOST_DIGITS:
        return None
    top, _, bottom = number.replace(",", "").partition("/")
    parts = [part.strip() for part in (top, bottom or "1")]
    if any(abs(int(part.lower().partition("e")[2] or "0")) > LARGEST_EXPONENT for part in parts):
        return None
    above, below = (Fraction(part) for part in parts)
    return above / below if below else None


_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\^(?:\{[0-9]\}|[0-9])")
"""The power of a unit, m^2 or \\text{cm}^{3}, which is no number of its own."""


@dataclass(frozen=True)
class NumericVerifier:
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
        """See Verifier."""
        found = last_box(response)
        if found is None and self.in_text:
            found = response
        if found is None or not found.strip():
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        given, known = (last_number(_UNIT_POWER.sub("", text)) for text in (found, answer))
        if given is None or known is None:
            is_same = found.strip() == answer.strip()
            return Verdict(float(is_same), Outcome.GRADED if is_same else Outcome.UNPARSED, bounded(found))
        right = abs(given - known) <= Fraction(self.rel_tol) * abs(known)
        return Verdict(float(right), Outcome.GRADED, bounded(str(given)))

    def example_response(self, answer: str) -> str:
        """The answer in a box."""
        return f"\\boxed{{{answer}}}"


@dataclass(frozen=True)
class FunctionVerifier:
    """Any Python function (response, answer) that returns a bool, a number from 0 to 1, NumPy's too, or a Verdict.

    Raises ValueError if `function` is not written module:function or `template` has no place for the answer.
    """

    function: str
    """module:function; the module must be importable."""

    template: str = "\\boxed{{answer}}"
    """A response that must be judged right; {answer} stands for the known answer."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^:\s]+:[^:\s]+", self.function):
            raise ValueError(f"function must be written module:function, got {self.function!r}")
        if "{answer}" not in self.template:
            raise ValueError(f"template must hold {{answer}}, got {self.template!r}")

    def load(self) -> None:
        """Import the function; raises ValueError if that fails."""
        self._found()

    def __call__(self, response: str, answer: str) -> Verdict:
        """What the function says; `given` is the last box unless it returns a Verdict. Raises what it raises.

        Raises ValueError if the function returns anything else.
        """
        said = self._found()(response, answer)
        if isinstance(said, Verdict):
            return said
        # NumPy's and torch's scalars are asked for Python's: np.bool_ is no number.
        number = said.item() if hasattr(said, "item") else said
        if not isinstance(number, Real) or not 0 <= float(number) <= 1:
            raise ValueError(f"function {self.function!r} must return a bool, 0 to 1 or a Verdict, got {said!r:.100}")
        box = last_box(response)
        return Verdict(float(number), Outcome.GRADED, None if box is None else bounded(box))

    def example_response(self, answer: str) -> str:
        """The template with the answer in it."""
        return self.template.replace("{answer}", answer)

    def _found(self) -> Callable[[str, str], Any]:
        module, _, name = self.function.partition(":")
        make_importable(module)
        try:
            found = getattr(importlib.import_module(module), name)
        # An import runs the module, which may raise anything, and sys.exit raises what is no Exception.
        except (Exception, SystemExit) as error:
            raise ValueError(f"function cannot be imported, {self.function!r}: {error!r:.300}") from error
        if not callable(found):
            raise ValueError(f"function must name something callable, got {self.function!r}")
        return found

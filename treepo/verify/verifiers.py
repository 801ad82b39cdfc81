"""Verifiers for exact text, choices, numbers, and custom functions."""

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
from treepo.errors import SettingError
from treepo.utils.imports import make_importable
from treepo.verify.base import FinalAnswer


@dataclass(frozen=True)
class ExactVerifier(FinalAnswer):
    """The answer is the ground truth letter by letter, white space aside."""

    ignore_case: bool = False
    """Whether capital and small letters are the same."""

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        extracted, expected = self._normal(self.extract(response) or ""), self._normal(ground_truth)
        if not extracted:
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        return Verdict(float(extracted == expected), Outcome.GRADED, bounded(extracted))

    def _normal(self, text: str) -> str:
        plain = " ".join(text.split())
        return plain.casefold() if self.ignore_case else plain


MAX_LABEL_LEN = 1000
"""Characters of an answer in which a letter is looked for."""

_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|bf|rm)\b|\\[ ,;!]|[${}*]")
_SAID = re.compile(r"(?i:answer)(?:\s{0,3}(?i:is))?\s{0,3}:?\s{0,3}\**\s{0,3}\(?([A-Z])(?![A-Za-z0-9'])")


@dataclass(frozen=True)
class ChoiceVerifier(FinalAnswer):
    r"""The letter of the chosen option: \boxed{B}, (B), \text{B}, B. or B) with the option's text, Answer: B.

    Without a box (or mark, or tag), the last "Answer: B" or "answer is B" counts.
    """

    letters: str = "ABCDEFGHIJ"
    """The options' letters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Z]+", self.letters) or len(set(self.letters)) < len(self.letters):
            raise SettingError("letters", "must be different capital letters A-Z", self.letters)

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        found = (self.extract(response) or "").strip()
        said = None if found else self._last_said(response)
        if not found and said is None:
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        extracted = said[1] if said else self._label(found)
        expected = self._label(ground_truth)
        if extracted is None or expected is None:
            return Verdict(0.0, Outcome.UNPARSED, extracted or bounded(found))
        return Verdict(float(extracted == expected), Outcome.GRADED, extracted)

    def answer_end(self, text: str, ended: bool) -> int | None:
        end, said = super().answer_end(text, ended), self._last_said(text)
        # The next character decides whether the letter is one or begins a word.
        if end is None and said is not None and (ended or said.end() < len(text)):
            return said.end()
        return end

    def has_open_answer(self, text: str) -> bool:
        said = self._last_said(text)
        return super().has_open_answer(text) or (said is not None and said.end() == len(text))

    def _label(self, text: str) -> str | None:
        """The letter that a label, alone or before its option, begins with."""
        plain = _FONT.sub(" ", text[:MAX_LABEL_LEN]).strip()
        match = re.match(r"\(\s*([A-Za-z])\s*\)|([A-Za-z])\s*(?:[.:)]|\Z)", plain)
        letter = (match[1] or match[2]).upper() if match else ""
        return letter if letter and letter in self.letters else None

    def _last_said(self, text: str) -> re.Match[str] | None:
        said = deque((match for match in _SAID.finditer(text) if match[1] in self.letters), maxlen=1)
        return said[0] if said else None


MAX_DIGITS = 100
"""Characters of a number that is read."""

MAX_EXPONENT = 400
"""Largest power of ten that is read."""

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

    72, -1,234.5, 1 000, .5, 3/4, \frac{3}{4}, 1\frac12, 2e3, 2 \times 10^3. None for more than MAX_DIGITS
    characters, exponents beyond MAX_EXPONENT, and division by zero.
    """
    if len(text) > MAX_DIGITS:
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
    if len(number) > MAX_DIGITS:
        return None
    top, _, bottom = number.replace(",", "").partition("/")
    parts = [part.strip() for part in (top, bottom or "1")]
    if any(abs(int(part.lower().partition("e")[2] or "0")) > MAX_EXPONENT for part in parts):
        return None
    above, below = (Fraction(part) for part in parts)
    return above / below if below else None


_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\^(?:\{[0-9]\}|[0-9])")
"""The power of a unit, m^2 or \\text{cm}^{3}, which is no number of its own."""


@dataclass(frozen=True)
class NumericVerifier(FinalAnswer):
    """The last number of the answer is the ground truth; currency, percent signs and units are passed over.

    Numbers are compared exactly: decimals, fractions a/b, thousands with commas, powers of ten.
    """

    rel_tol: float = 0.0
    """Largest difference that counts as equal, as a share of the ground truth."""

    in_text: bool = False
    """Whether the last number of the whole response counts where it has no complete box, tag or mark."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.rel_tol) and self.rel_tol >= 0):
            raise SettingError("rel_tol", "must be a number of at least 0", self.rel_tol)

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        found = self.extract(response)
        if found is None and self.in_text:
            found = response
        if found is None or not found.strip():
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        extracted, expected = (last_number(_UNIT_POWER.sub("", text)) for text in (found, ground_truth))
        if extracted is None or expected is None:
            is_same = found.strip() == ground_truth.strip()
            return Verdict(float(is_same), Outcome.GRADED if is_same else Outcome.UNPARSED, bounded(found))
        is_right = abs(extracted - expected) <= Fraction(self.rel_tol) * abs(expected)
        return Verdict(float(is_right), Outcome.GRADED, bounded(str(extracted)))


@dataclass(frozen=True)
class FunctionVerifier(FinalAnswer):
    """Any Python function (response, ground_truth) that returns a bool, a number from 0 to 1, or a Verdict.

    Its other parameters are columns of the problem's record, by name.

    `mark` and `tag` only say where an answer ends and which one is counted in votes; the function reads what it likes.
    """

    function: str
    """module:function; the module must be importable."""

    template: str = ""
    """A response that must be judged right, with {answer} for the ground truth; by default in a box, mark or tag."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[^:\s]+:[^:\s]+", self.function):
            raise SettingError("function", "must be written module:function", self.function)
        if self.template and "{answer}" not in self.template:
            raise SettingError("template", "must hold {answer}", self.template)

    def load(self) -> None:
        """Import the function; raises SettingError if that fails."""
        self.imported()

    def __call__(self, response: str, ground_truth: str, /, **columns: Any) -> Verdict:
        """Return what the function says, with the final answer unless it returns a Verdict; raises what it raises.

        Raises ValueError if the function returns anything else.
        """
        result = self.imported()(response, ground_truth, **columns)
        if isinstance(result, Verdict):
            return result
        # NumPy's and torch's scalars are asked for Python's: np.bool_ is no number.
        number = result.item() if hasattr(result, "item") else result
        if not isinstance(number, Real) or not 0 <= float(number) <= 1:
            raise ValueError(f"function {self.function!r} must return a bool, 0 to 1 or a Verdict, got {result!r:.100}")
        extracted = self.extract(response)
        return Verdict(float(number), Outcome.GRADED, None if extracted is None else bounded(extracted))

    def example_response(self, ground_truth: str) -> str:
        if not self.template:
            return super().example_response(ground_truth)
        return self.template.replace("{answer}", ground_truth)

    def imported(self) -> Callable[..., Any]:
        """The function; raises SettingError if it cannot be imported."""
        module, _, name = self.function.partition(":")
        make_importable(module)
        try:
            found = getattr(importlib.import_module(module), name)
        # An import runs the module, which may raise anything; SystemExit is no Exception.
        except (Exception, SystemExit) as error:
            raise SettingError("function", f"cannot be imported: {error!r:.300}", self.function) from error
        if not callable(found):
            raise SettingError("function", "must name something callable", self.function)
        return found

"""Verifiers for exact text, choices, and custom functions."""

import importlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
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

    Without an answer where `extract_from` looks for it, the last "Answer: B" or "answer is B" counts.
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
        plain = self.visible(text)
        said = deque((match for match in _SAID.finditer(plain) if match[1] in self.letters), maxlen=1)
        return said[0] if said else None


@dataclass(frozen=True)
class FunctionVerifier(FinalAnswer):
    """Any Python function (response, ground_truth) that returns a bool, a number from 0 to 1, or a Verdict.

    Its other parameters are columns of the problem's record, by name. `extract_from` only says where an answer ends and
    which one is counted in votes; the function reads what it likes.
    """

    function: str
    """module:function; the module must be importable."""

    template: str = ""
    """A response that must be judged right, with {answer} for the ground truth; by default as extract_from says."""

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


@dataclass(frozen=True)
class NoVerifier(FinalAnswer):
    """Judges nothing: rewards come from reward functions alone, and problems need no known answer."""

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        return Verdict(0.0, Outcome.UNVERIFIED, None)

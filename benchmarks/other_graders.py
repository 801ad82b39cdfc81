"""Other projects' graders as verifiers, which worker processes import."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from treepo.data.problem import Outcome, Verdict
from treepo.verify.base import FinalAnswer


@dataclass(frozen=True)
class OtherGrader:
    """A function (given, known) of another project, as a verifier."""

    function: str
    """module:function"""

    def load(self) -> None:
        self._import()

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        given = FinalAnswer().extract(response)
        if given is None:
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        return Verdict(float(bool(self._import()(given.strip(), ground_truth))), Outcome.GRADED, given)

    def example_response(self, ground_truth: str) -> str:
        return FinalAnswer().example_response(ground_truth)

    def _import(self) -> Callable[[str, str], Any]:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class MathVerify:
    """The package math-verify, as its page says to use it; the pool keeps the time."""

    def load(self) -> None:
        importlib.import_module("math_verify")

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        return Verdict(float(math_verify_says(response, ground_truth)), Outcome.GRADED, None)

    def example_response(self, ground_truth: str) -> str:
        return FinalAnswer().example_response(ground_truth)


def math_verify_says(response: str, ground_truth: str) -> bool:
    """Whether math-verify calls a response right, without time limits of its own."""
    library = importlib.import_module("math_verify")
    known = library.parse(f"\\boxed{{{ground_truth}}}", parsing_timeout=None)
    given = library.parse(response, parsing_timeout=None)
    return bool(library.verify(known, given, timeout_seconds=None))

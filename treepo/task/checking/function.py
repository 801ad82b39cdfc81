"""A function of one's own."""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from treepo.task.boxed import last_box
from treepo.task.checking.verdict import Outcome, Verdict, bounded


@dataclass(frozen=True)
class FunctionChecker:
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
        return Verdict(float(number), Outcome.CHECKED, None if box is None else bounded(box))

    def written(self, answer: str) -> str:
        """The template with the answer in it."""
        return self.template.replace("{answer}", answer)

    def _found(self) -> Callable[[str, str], Any]:
        module, _, name = self.function.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        # An import runs the module, which may raise anything, and sys.exit raises what is no Exception.
        except (Exception, SystemExit) as error:
            raise ValueError(f"function cannot be imported, {self.function!r}: {error!r:.300}") from error
        if not callable(found):
            raise ValueError(f"function must name something callable, got {self.function!r}")
        return found

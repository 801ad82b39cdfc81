"""Answers scored by the datasets of reasoning-gym themselves."""

import ast
import importlib
from dataclasses import dataclass
from typing import Any

from treepo.data.problem import Outcome, Verdict, bounded
from treepo.data.reasoning_gym import check_installed, open_dataset
from treepo.errors import RecordError, SettingError
from treepo.verify.base import FinalAnswer, Place

EVALUATED = ("algorithmic.binary_matrix", "algorithmic.spiral_matrix", "algorithmic.string_insertion", "games.n_queens")
"""Modules of the library that pass answers to `eval`, where they look for a list."""

PARSED = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
"""Datasets that pass answers to sympy's `parse_expr`, which evaluates them as Python."""

FUNCTIONS = frozenset(
    (
        *("Abs", "abs", "E", "I", "exp", "ln", "log", "pi", "sqrt", "Integral"),
        *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh"),
        *("cot", "csc", "sec", "sin", "sinh", "tan", "tanh"),
    )
)
"""Names in expressions besides single letters. Integral: some known answers of intermediate_integration hold one."""


@dataclass(frozen=True)
class ReasoningGymVerifier(FinalAnswer):
    """The score from 0 to 1 that the problem's dataset of reasoning-gym gives the answer; 1 is right.

    Answers that a scorer would run as Python are refused, unless they are lists of values or formulas: responses are
    untrusted, and the library does not guard against them.
    """

    extract_from: tuple[Place, ...] = ("tag",)
    r"""As in other verifiers; where the library itself looks: the last <answer>...</answer>."""

    def load(self) -> None:
        """Import the library; raises SettingError without it."""
        try:
            check_installed()
        except RecordError as error:
            raise SettingError("use", str(error)) from error
        for name in EVALUATED:
            # Found before the builtin of this name.
            vars(importlib.import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval

    def __call__(self, response: str, ground_truth: str, /, *, reasoning_gym: str, entry: str) -> Verdict:
        """Return the score. reasoning_gym: the dataset with its options. entry: the whole entry, as Python literals.

        An answer on which the scorer raises, as several do where they expect a number, is UNPARSED.
        """
        found = (self.extract(response) or "").strip()
        if not found:
            return Verdict(0.0, Outcome.NO_ANSWER, None)
        if reasoning_gym.partition("?")[0] in PARSED and not is_formula(found):
            return Verdict(0.0, Outcome.UNPARSED, bounded(found))
        dataset = open_dataset(reasoning_gym, 0)
        known = ast.literal_eval(entry)
        try:
            score = float(dataset.score_answer(found, known))
        except MemoryError:
            raise
        # What the library raises about an answer, it does not say.
        except Exception:  # noqa: BLE001
            return Verdict(0.0, Outcome.UNPARSED, bounded(found))
        return Verdict(min(max(score, 0.0), 1.0), Outcome.GRADED, bounded(found))


def is_formula(text: str) -> bool:
    """Whether a text is a Python expression of numbers, operators, single letters and functions of FUNCTIONS alone."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    # Deep nesting and null characters.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_plain(node) for node in ast.walk(tree.body))


def _is_plain(node: Any) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float, complex)
    if isinstance(node, ast.Name):
        return len(node.id) == 1 or node.id in FUNCTIONS
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and not node.keywords
    return isinstance(node, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.expr_context)

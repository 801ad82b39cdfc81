"""Expressions: read and compared by math-verify, and one text for equal ones.

Imports sympy: for worker processes only.
"""

import re
from itertools import product
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

_UPRIGHT = re.compile(r"\\mathrm\{([ei])\}")

MAX_NODES = 60
MAX_NUMBER = 10**9
MAX_EXPONENT = 8

_EVALUATED = (
    *(sympy.Add, sympy.Mul, sympy.Pow, sympy.Symbol, sympy.Rational, sympy.Float, sympy.UnevaluatedExpr),
    *(type(sympy.pi), type(sympy.E), type(sympy.I), sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tan),
)
"""What is evaluated before it is written; sums, integrals and factorials might take forever."""


def read(text: str) -> list[Any]:
    """What math-verify makes of LaTeX: an expression, if it can make one, then the text as it normalises it."""
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    # Its own time limits set signal handlers; the process that waits for this one keeps ours.
    unlimited: Any = None
    # It takes an upright letter for a unit and drops it.
    plain = _UPRIGHT.sub(r"{\1}", text)
    parts = parse(f"\\boxed{{{plain}}}", extraction_config=config, parsing_timeout=unlimited)
    # Where it dropped more, different answers would be left with the same text.
    return [part for part in parts if not isinstance(part, str) or part.count("{") == part.count("}")]


def are_equal(expected: list[Any], extracted: list[Any]) -> bool:
    """Whether math-verify takes the extracted answer for the expected one, both as `read` returns them.

    Where it fails (by default it would say "no"), raises what sympy raised.
    """
    failure: Exception | None = None
    for pair in product(expected, extracted):
        try:
            if verify(*pair, timeout_seconds=None, raise_on_error=True):
                return True
        except MemoryError:
            raise
        # Raised below, unless the next pair decides: two expressions may fail where their texts agree.
        except Exception as error:  # noqa: BLE001
            failure = error
    if failure is not None:
        raise failure
    return False


def canonical_text(parsed: list[Any]) -> str:
    """One text for equal answers: rational numbers as 1/2, sets in order, small expressions multiplied out.

    An equation whose left side is a symbol is written as its right side. parsed: as `read`, not empty; its text
    where it holds no expression, or one that sympy cannot evaluate or write.
    """
    if isinstance(parsed[0], str):
        return parsed[0]
    try:
        return _text(parsed[0])
    # What sympy raises on expressions that it cannot evaluate, order or write; which, is documented nowhere.
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return str(parsed[-1])


def _text(value: Any) -> str:
    if isinstance(value, sympy.Eq) and isinstance(value.lhs, sympy.Symbol):
        return _text(value.rhs)
    if isinstance(value, sympy.FiniteSet):
        elements = sorted({_text(element) for element in value.args})
        return elements[0] if len(elements) == 1 else "{" + ", ".join(elements) + "}"
    if isinstance(value, sympy.Interval):
        opening, closing = "(" if value.left_open else "[", ")" if value.right_open else "]"
        return f"{opening}{_text(value.start)}, {_text(value.end)}{closing}"
    if isinstance(value, sympy.Tuple):
        return "(" + ", ".join(_text(element) for element in value) + ")"
    if isinstance(value, sympy.MatrixBase):
        return str([[_text(element) for element in row] for row in value.tolist()])
    return str(_evaluated(value) if isinstance(value, sympy.Expr) and _is_small(value) else value)


def _is_small(expression: sympy.Expr) -> bool:
    """Whether evaluating it takes no time to speak of."""
    nodes: list[Any] = list(sympy.preorder_traversal(expression))
    return len(nodes) <= MAX_NODES and all(isinstance(n, _EVALUATED) and _is_small_number(n) for n in nodes)


def _is_small_number(node: Any) -> bool:
    if isinstance(node, sympy.Pow):
        return not node.exp.is_number or (node.exp.is_Rational and abs(node.exp) <= MAX_EXPONENT)
    if isinstance(node, sympy.Rational):
        return abs(node.p) < MAX_NUMBER and node.q < MAX_NUMBER
    return True


def _evaluated(expression: sympy.Expr) -> sympy.Expr:
    exact = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    return sympy.expand(expression.xreplace(exact).doit(), deep=False, multinomial=True)

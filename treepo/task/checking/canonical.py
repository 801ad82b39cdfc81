"""One text for equal expressions.

Imports sympy: for worker processes only.
"""

from typing import Any

import sympy
from sympy.core.relational import Relational

MOST_NODES = 60
LARGEST_NUMBER = 10**9
LARGEST_EXPONENT = 8

_EVALUATED = (
    *(sympy.Add, sympy.Mul, sympy.Pow, sympy.Symbol, sympy.Rational, sympy.Float, sympy.UnevaluatedExpr),
    *(type(sympy.pi), type(sympy.E), type(sympy.I), sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tan),
)
"""What is evaluated before it is written; sums, integrals and factorials might take forever."""


def canonical_text(parsed: Any, fallback: str) -> str:
    """The text of what math-verify parsed: rational numbers as 1/2, sets in order, small expressions multiplied out.

    x = 5 is written 5. `fallback` where sympy cannot evaluate or write the expression.
    """
    try:
        return _text(parsed)
    # What sympy raises on expressions that it cannot evaluate, order or write; which, is documented nowhere.
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return fallback


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
    if isinstance(value, Relational) and not isinstance(value, sympy.Eq):
        return f"{_text(value.lhs)} {value.rel_op} {_text(value.rhs)}"
    return str(_evaluated(value) if isinstance(value, sympy.Expr) and _is_small(value) else value)


def _is_small(expression: sympy.Expr) -> bool:
    """Whether evaluating it takes no time to speak of."""
    nodes = list(sympy.preorder_traversal(expression))
    return len(nodes) <= MOST_NODES and all(
        isinstance(node, _EVALUATED)
        and (not node.is_number or not node.is_Atom or not node.is_finite or abs(node) < LARGEST_NUMBER)
        and (not node.is_Pow or (node.exp.is_Rational and abs(node.exp) <= LARGEST_EXPONENT) or not node.exp.is_number)
        for node in nodes
    )


def _evaluated(expression: sympy.Expr) -> sympy.Expr:
    exact = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    return sympy.expand(expression.xreplace(exact).doit(), deep=False, multinomial=True)

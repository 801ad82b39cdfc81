"""The values of expressions are those that sympy computes."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from treepo.verify.expressions.answers import Value
from treepo.verify.expressions.equality import are_equal
from treepo.verify.expressions.numeric import Evaluation, UndefinedError, exact
from treepo.verify.expressions.reader import read

X, Y = sympy.symbols("x y", real=True)
POINT = {"x": Fraction(7, 5), "y": Fraction(5, 3)}


@dataclass(frozen=True)
class Pair:
    """An expression as LaTeX and as sympy has it. is_atom: whether it needs no brackets."""

    latex: str
    value: sympy.Expr
    is_atom: bool = False

    @property
    def inner(self) -> str:
        return self.latex if self.is_atom else f"\\left({self.latex}\\right)"


def binary(left: Pair, right: Pair) -> st.SearchStrategy[Pair]:
    choices = [
        Pair(f"{left.latex}+{right.inner}", left.value + right.value),
        Pair(f"{left.latex} - {right.inner}", left.value - right.value),
        Pair(f"{left.inner} \\cdot {right.inner}", left.value * right.value),
        Pair(f"{left.inner} \\times {right.inner}", left.value * right.value),
        Pair(f"({left.latex})({right.latex})", left.value * right.value),
    ]
    if right.value != 0:
        choices.append(Pair(f"\\frac{{{left.latex}}}{{{right.latex}}}", left.value / right.value, True))
        choices.append(Pair(f"{left.inner} / {right.inner}", left.value / right.value))
    return st.sampled_from(choices)


UNARY: list[Callable[[Pair], Pair]] = [
    lambda one: Pair(f"-{one.inner}", -one.value),
    lambda one: Pair(f"{one.inner}^2", one.value**2),
    lambda one: Pair(f"{one.inner}^{{3}}", one.value**3),
    lambda one: Pair(f"\\sqrt{{{one.inner}^2+1}}", sympy.sqrt(one.value**2 + 1), True),
    lambda one: Pair(f"\\left|{one.latex}\\right|", sympy.Abs(one.value), True),
    lambda one: Pair(f"\\sin\\left({one.latex}\\right)", sympy.sin(one.value)),
    lambda one: Pair(f"\\cos^2({one.latex})", sympy.cos(one.value) ** 2),
    lambda one: Pair(f"\\arctan({one.latex})", sympy.atan(one.value)),
    lambda one: Pair(f"\\ln({one.inner}^2+2)", sympy.log(one.value**2 + 2)),
    lambda one: Pair(f"\\lfloor {one.latex} \\rfloor", sympy.floor(one.value), True),
]

whole = st.integers(0, 12).map(lambda n: Pair(str(n), sympy.Integer(n), True))
decimal = st.integers(1, 99).map(lambda n: Pair(f"{n // 10}.{n % 10}", sympy.Rational(n, 10), True))
letters = st.sampled_from([Pair("x", X, True), Pair("y", Y, True), Pair("\\pi", sympy.pi, True)])
unary = st.sampled_from(UNARY)


def trees(leaves: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, inner).flatmap(lambda pair: binary(*pair)),
            st.tuples(unary, inner).map(lambda pair: pair[0](pair[1])),
        ),
        max_leaves=6,
    )


def node_of(text: str):
    answer = read(text)
    assert isinstance(answer, Value) and answer.unit is None
    return answer.node


@settings(max_examples=150)
@given(trees(st.one_of(whole, decimal, letters)))
def test_expressions_have_the_values_of_sympy(pair):
    expected = sympy.N(pair.value.subs({X: sympy.Rational(7, 5), Y: sympy.Rational(5, 3)}), 30)
    assume(expected.is_finite)
    evaluation = Evaluation(224, 0, POINT)
    try:
        value, error = evaluation.value(node_of(pair.latex))
    except UndefinedError:
        # sympy leaves out a division by zero that cancels.
        assume(False)
        return
    assert error < -100
    assert abs(complex(value) - complex(expected)) <= 1e-12 * max(1, abs(complex(expected))), pair.latex


def rational(left: Pair, right: Pair) -> st.SearchStrategy[Pair]:
    return binary(left, right)


@settings(max_examples=150)
@given(
    st.recursive(
        st.one_of(whole, decimal), lambda inner: st.tuples(inner, inner).flatmap(lambda p: rational(*p)), max_leaves=8
    )
)
def test_rational_expressions_are_exact(pair):
    assume(pair.value.is_finite)
    try:
        value = exact(node_of(pair.latex))
    except UndefinedError:
        assume(False)
        return
    assert value == Fraction(int(pair.value.p), int(pair.value.q)), pair.latex


@settings(max_examples=60)
@given(trees(st.one_of(whole, letters)), st.integers(1, 5))
def test_expanding_changes_nothing_and_adding_does(pair, extra):
    """What sympy multiplies out is the same expression, and is not the same plus something."""
    expanded = sympy.latex(sympy.expand(pair.value), mul_symbol="\\cdot ", fold_func_brackets=False)
    try:
        first, second = (
            node_of(pair.latex),
            node_of(expanded.replace("\\log", "\\ln").replace("\\operatorname{atan}", "\\arctan")),
        )
        assert are_equal(first, second), expanded
        assert not are_equal(first, node_of(f"{pair.latex} + \\frac{{{extra}}}{{10^{{20}}}}"))
    except UndefinedError:
        assume(False)

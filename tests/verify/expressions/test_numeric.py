"""Values, their errors, and the rule for decimals."""

from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.verify.expressions.answers import Value
from treepo.verify.expressions.equality import are_equal, are_proportional
from treepo.verify.expressions.nodes import Node
from treepo.verify.expressions.numeric import MAX_BITS, Evaluation, UndefinedError, exact
from treepo.verify.expressions.reader import read


def node(text: str) -> Node:
    answer = read(text)
    assert isinstance(answer, Value)
    return answer.node


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\frac{40!}{20!20!}", Fraction(137846528820)),
        ("\\binom{10}{3} - 2^{-3}", Fraction(959, 8)),
        ("\\left(\\frac{8}{27}\\right)^{2/3}", Fraction(4, 9)),
        ("\\sqrt{\\frac{49}{64}}", Fraction(7, 8)),
        ("\\sqrt[3]{27} \\cdot |{-2}|", Fraction(6)),
        ("\\lfloor -1.5 \\rfloor + \\lceil 1.5 \\rceil", Fraction(0)),
        ("\\gcd(12, 18) + \\max(1, 2, 3)", Fraction(9)),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("12.5\\% \\cdot 2", Fraction(1, 4)),
        ("1\\frac{3}{4}", Fraction(7, 4)),
        ("1.5e-3", Fraction(3, 2000)),
    ],
)
def test_rational_values_are_exact(text, value):
    assert exact(node(text)) == value


@pytest.mark.parametrize(
    "text", ["2^{100000}", "1501!", "9^{9^{9}}", "\\sqrt{2}", "(-8)^{1/3}", "\\pi", "x", "2^{1/5}"]
)
def test_large_and_irrational_values_are_not(text):
    assert exact(node(text)) is None


@pytest.mark.parametrize("text", ["\\frac{1}{0}", "0^{-1}", "\\frac{2}{3-3}", "\\frac{1}{\\frac{1}{2}-0.5}"])
def test_a_division_by_zero_has_no_value(text):
    with pytest.raises(UndefinedError):
        exact(node(text))


@pytest.mark.parametrize(
    "text",
    [
        "e^{-50} - e^{-50}(1 + 2^{-150})",
        "\\sqrt{10^{40}+1} - 10^{20}",
        "\\frac{1}{\\pi - 3.14159265358979}",
        "\\tan(1.5707963267948966)",
        "\\ln(1 + 2^{-100})",
        "\\arcsin(1 - 10^{-20})",
        "(1 + 10^{-30})^{10^{12}}",
        "\\sin(10^{20})",
        "\\sqrt[5]{7 - \\sqrt{48.999}}",
        "\\cosh(40) - \\sinh(40)",
    ],
)
def test_errors_are_bounds(text):
    """The value to many more digits lies within them, and most digits are right."""
    rough, fine = Evaluation(224, 0), Evaluation(2000, 0)
    (value, error), (better, _) = rough.value(node(text)), fine.value(node(text))
    difference = abs(better - fine.mp.mpf(value))
    assert fine.magnitude(difference) <= error
    assert error < fine.magnitude(better)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1 - 2^{-100}", "1 - 2^{-200}"),
        ("1 - e^{-500}", "1"),
        ("e^{-5000}", "e^{-5001}"),
        ("2^{9000} + 1", "2^{9000}"),
        ("\\cos(10^{-200})", "1"),
        ("2^{10^{-300}}", "1"),
        ("\\sqrt{2} + 10^{-300}", "\\sqrt{2}"),
        ("x(1 + 10^{-200})", "x"),
        ("\\pi^{1000}", "\\pi^{1000} + 1"),
    ],
)
def test_differences_are_found_however_small_they_are(first, second):
    assert not are_equal(node(first), node(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("\\sqrt{3 + 2\\sqrt{2}}", "1 + \\sqrt{2}"),
        ("\\cos 36^\\circ", "\\frac{1 + \\sqrt{5}}{4}"),
        ("\\sin^2 x", "\\frac{1 - \\cos 2x}{2}"),
        ("\\frac{x^3 - y^3}{x - y}", "x^2 + xy + y^2"),
        ("e^{i\\pi/3}", "\\frac{1 + i\\sqrt{3}}{2}"),
        ("\\arctan 1 + \\arctan 2 + \\arctan 3", "\\pi"),
        ("9^{9^{9}}", "3^{2 \\cdot 9^{9}}"),
        ("\\sqrt[3]{-8x^3}", "-2x"),
        ("\\frac{(n+1)!}{(n-1)!}", "n^2 + n"),
    ],
)
def test_identities_hold(first, second):
    assert are_equal(node(first), node(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("\\sqrt{x^2}", "x"),
        ("|x|", "x"),
        ("\\lfloor x \\rfloor", "x - \\frac{1}{2}"),
        ("x^{-1}", "-x"),
        ("\\frac{x}{y}", "\\frac{y}{x}"),
        ("\\ln(x + y)", "\\ln x + \\ln y"),
        ("\\lfloor \\frac{2n-1}{5} \\rfloor", "\\lfloor \\log_2 n \\rfloor + 1"),
        ("\\lceil n/2 \\rceil", "\\lfloor (n+2)/2 \\rfloor"),
        ("f(x)", "f(y)"),
        ("a_{n+1}", "a_{n}+1"),
        ("\\sum_{k=1}^{n} k", "\\sum_{k=1}^{n} k^2"),
    ],
)
def test_functions_that_differ_somewhere_differ(first, second):
    assert not are_equal(node(first), node(second))


@pytest.mark.parametrize(
    "text", ["9^{9^{9^{9}}}", "\\sin(10^{10^{10}})", "0^0 \\cdot 0^{-1}", "\\ln 0", "\\infty - \\infty"]
)
def test_what_has_no_value_within_bounds_says_so(text):
    with pytest.raises(UndefinedError):
        are_equal(node(text), node("\\sqrt{2}"))


irrational = st.sampled_from(
    ["\\sqrt{2}", "\\pi", "e^{-7}", "1000\\sqrt{3}", "\\ln 5 \\cdot 10^{-9}", "\\frac{2}{7}", "\\frac{1}{432}"]
)


@given(irrational, st.integers(2, 20), st.sampled_from([ROUND_HALF_UP, ROUND_DOWN]), st.integers(-3, 3))
def test_a_decimal_is_a_number_that_it_is_rounded_from(text, digits, rounding, change):
    """From six digits on; one that ends otherwise, within the first twelve digits, is another number."""
    evaluation = Evaluation(300, 0)
    value = Decimal(evaluation.mp.nstr(evaluation.value(node(text))[0], 40))
    rounded = Context(prec=digits, rounding=rounding).plus(value)
    exponent = rounded.as_tuple().exponent
    assert isinstance(exponent, int)
    last = Decimal(1).scaleb(exponent)
    shown = format(rounded + change * last, "f")
    if "." not in shown:
        return
    num_digits = len(shown.replace(".", "").lstrip("0"))
    is_same = are_equal(node(shown), node(text))
    assert is_same == are_equal(node(text), node(shown))
    if num_digits < 6 or (abs(change) > 1 and digits <= 12):
        assert not is_same
    elif change == 0:
        assert is_same


def test_whole_numbers_and_fractions_are_compared_exactly():
    assert not are_equal(node("1000000"), node("1000001"))
    assert not are_equal(node("\\frac{333333}{1000000}"), node("\\frac{1}{3}"))
    assert not are_equal(node("333333 \\cdot 3"), node("10^6"))


def test_multiples_are_told_from_others():
    assert are_proportional(node("2x - 4y"), node("6y - 3x"))
    assert not are_proportional(node("2x - 4y"), node("6y - 3x"), only_positive=True)
    assert not are_proportional(node("x - 1"), node("x^2 - x"))
    assert not are_proportional(node("x - 1"), node("x - 2"))


def test_numbers_are_bounded_in_size():
    assert exact(node(f"2^{{{MAX_BITS // 2}}}")) == 2 ** (MAX_BITS // 2)
    assert exact(node(f"2^{{{MAX_BITS + 10}}}")) is None

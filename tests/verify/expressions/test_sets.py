"""Unions of intervals hold the numbers that they should."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.verify.expressions.answers import Intervals, Piece
from treepo.verify.expressions.nodes import Number, Symbol
from treepo.verify.expressions.numeric import UndefinedError
from treepo.verify.expressions.reader import read
from treepo.verify.expressions.sets import ALL, complement, infinity_sign, intersected, united
from treepo.verify.expressions.text import UnreadableError

POINTS = [Fraction(n, 2) for n in range(-3, 15)]


def holds(pieces: tuple[Piece, ...], point: Fraction) -> bool:
    """Whether a number lies in one of the intervals."""

    def is_above(low: object, has_low: bool) -> bool:
        if isinstance(low, Number):
            return point > low.value or (has_low and point == low.value)
        return infinity_sign(low) < 0

    def is_below(high: object, has_high: bool) -> bool:
        if isinstance(high, Number):
            return point < high.value or (has_high and point == high.value)
        return infinity_sign(high) > 0

    return any(is_above(p.low, p.has_low) and is_below(p.high, p.has_high) for p in pieces)


ends = st.integers(0, 5).map(lambda n: Number(Fraction(n)))
piece = st.builds(Piece, ends, ends, st.booleans(), st.booleans())
sets = st.lists(piece, max_size=4).map(tuple)


@given(sets, sets)
def test_operations_hold_the_right_numbers(first, second):
    for point in POINTS:
        one, other = holds(first, point), holds(second, point)
        assert holds(united(first + second), point) == (one or other)
        assert holds(intersected(first, second), point) == (one and other)
        assert holds(complement(first), point) == (not one)


@given(sets)
def test_a_set_has_one_form(pieces):
    """In order, without gaps of nothing: putting it in order again, or taking it apart, changes nothing."""
    ordered = united(pieces)
    assert united(ordered) == ordered == united(tuple(reversed(pieces)))
    assert complement(complement(pieces)) == ordered
    assert all(a.high.value <= b.low.value for a, b in pairwise(ordered))


def test_ends_without_an_order_stay_as_they_are():
    pieces = (Piece(Symbol("b"), Symbol("c"), True, True), Piece(Symbol("a"), Symbol("b"), True, True))
    assert united(pieces) == pieces
    with pytest.raises(UndefinedError):
        intersected(pieces, ALL[:1] + pieces)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("-2 \\le x < 7", [-2, 0, "13/2"], [7, -3]),
        ("x \\ne 3", [2, 4, "5/2"], [3]),
        ("|x| \\ge 2", [2, -2, 5], [0, 1, -1]),
        ("0 < |x| < 2", [1, -1, "3/2"], [0, 2, -2]),
        ("2x + 1 > 7", [4, "7/2"], [3, 0]),
        ("1 - x \\ge 3", [-2, -5], [0, "-3/2"]),
        ("(0, 4) \\cap [2, 6]", [2, 3], [1, 4, 5]),
        ("[0, 4] \\setminus \\{1, 2\\}", [0, 3, 4], [1, 2, 5]),
        ("\\{x \\mid 0 < x < 4, x \\ne 1\\}", [2, 3], [0, 1, 4]),
        ("x < 1 \\text{ or } x > 2", [0, 3], [1, 2, "3/2"]),
        ("x > 1 \\text{ and } x < 2", ["3/2"], [1, 2, 3]),
    ],
)
def test_conditions_are_the_numbers_that_meet_them(text, inside, outside):
    answer = read(text)
    assert isinstance(answer, Intervals)
    assert all(holds(answer.pieces, Fraction(point)) for point in inside)
    assert not any(holds(answer.pieces, Fraction(point)) for point in outside)


@pytest.mark.parametrize(
    "text",
    ["[1, 2, 3)", "(1, )", "\\cup (1, 2)", "(1, 2) \\cup 3", "1 < x > 0", "x = 1 < 2", "\\{x | x + y\\}", "x \\in"],
)
def test_what_is_no_set_is_not_read(text):
    with pytest.raises(UnreadableError):
        read(text)

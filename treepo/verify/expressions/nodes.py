"""Expressions as trees: numbers, symbols, and functions applied to them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

MAX_POWER_OF_TEN = 2000
"""Largest power of ten of a literal that is kept as an exact number; a larger one stays a power."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational number.

    num_digits: significant digits of a decimal as it was written; 0 for whole numbers and fractions. place: the power
    of ten of its last digit.
    """

    value: Fraction
    num_digits: int = field(default=0, compare=False)
    place: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Symbol:
    r"""A letter, perhaps with a subscript, or a constant: \pi, e, i, \infty."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of arguments; `add`, `mul`, `div`, `pow` and `neg` are functions, too."""

    function: str
    arguments: tuple["Node", ...]


Node = Number | Symbol | Apply

PI, INFINITY = Symbol("\\pi"), Symbol("\\infty")
ZERO, ONE = Number(Fraction(0)), Number(Fraction(1))


def number(text: str) -> Node:
    """The number that digits, a point and an exponent write."""
    mantissa, _, exponent = text.lower().partition("e")
    digits, _, decimals = mantissa.partition(".")
    power = int(exponent or 0)
    if abs(power) > MAX_POWER_OF_TEN:
        return Apply("mul", (number(mantissa), Apply("pow", (Number(Fraction(10)), Number(Fraction(power))))))
    if not decimals and not exponent:
        return Number(Fraction(int(digits)))
    value = Fraction(int(digits + decimals)) * Fraction(10) ** (power - len(decimals))
    is_whole = not decimals and power >= 0
    return Number(value, 0 if is_whole else len((digits + decimals).lstrip("0")), power - len(decimals))


def negated(node: Node) -> Node:
    """Minus the node."""
    if isinstance(node, Number):
        return Number(-node.value, node.num_digits, node.place)
    if isinstance(node, Apply) and node.function == "neg":
        return node.arguments[0]
    return Apply("neg", (node,))


def product(left: Node, right: Node) -> Node:
    """left times right; a decimal times a power of ten is a decimal."""
    if isinstance(left, Number) and (power := _power_of_ten(right)) is not None:
        shifted = left.value * Fraction(10) ** power
        if left.num_digits:
            return Number(shifted, left.num_digits, left.place + power)
        # The digits of a whole number times a power of ten below 1 are those of a decimal.
        return Number(shifted, len(str(abs(left.value.numerator))), power) if power < 0 else Number(shifted)
    return Apply("mul", (left, right))


def _power_of_ten(node: Node) -> int | None:
    if not (isinstance(node, Apply) and node.function == "pow" and node.arguments[0] == Number(Fraction(10))):
        return None
    exponent = node.arguments[1]
    if not isinstance(exponent, Number) or exponent.value.denominator != 1:
        return None
    return int(exponent.value) if abs(exponent.value) <= MAX_POWER_OF_TEN else None


def subtrees(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        if isinstance(current, Apply):
            waiting.extend(current.arguments)


CONSTANT_NAMES = {"\\pi", "e", "i", "\\infty"}


def symbols(node: Node) -> set[str]:
    """The names of the letters that stand for numbers that are not known."""
    return {n.name for n in subtrees(node) if isinstance(n, Symbol)} - CONSTANT_NAMES


def replaced(node: Node, function: str, wanted: str) -> Node:
    """The node with every `function` applied as `wanted`."""
    if not isinstance(node, Apply):
        return node
    arguments = tuple(replaced(argument, function, wanted) for argument in node.arguments)
    return Apply(wanted if node.function == function else node.function, arguments)

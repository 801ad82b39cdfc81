"""Values of expressions: exact rational numbers where possible, otherwise decimals with a bound of their error."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from treepo.verify.expressions.nodes import Apply, Node, Number, Symbol

MAX_BITS = 20_000
"""Bits of numerator and denominator of an exact number."""

MAX_FACTORIAL = 1500
"""Largest number whose factorial is exact."""

MAX_MAGNITUDE = 1500
"""Bits before the point of an exponent, an angle, or the argument of a factorial."""

MAX_GAP_OF_NUMBER = 4000
"""Largest gap that is noted for an exact number, whose bits are more than the precision."""

EXACT = -(10**12)
"""The error, as a power of two, of a number without one."""


class UndefinedError(ArithmeticError):
    """The expression has no value, or none that can be computed within the bounds."""


def exact(node: Node) -> Fraction | None:
    """The value of an expression of whole numbers; None if it has symbols or roots, or is too large.

    Raises UndefinedError for a division by zero.
    """
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Symbol) or node.function not in _EXACT:
        return None
    values = []
    for argument in node.arguments:
        value = exact(argument)
        if value is None:
            return None
        values.append(value)
    result = _EXACT[node.function](*values)
    if result is not None and max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
        return None
    return result


def _divided(top: Fraction, bottom: Fraction) -> Fraction:
    if not bottom:
        raise UndefinedError("division by zero")
    return top / bottom


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if not base and exponent < 0:
        raise UndefinedError("division by zero")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or bits * abs(exponent) > MAX_BITS:
        return _root(base, exponent)
    return base ** int(exponent)


def _root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """The power if it is rational: 8^(2/3)."""
    degree = exponent.denominator
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base < 0 or degree not in {2, 3, 4} or abs(exponent.numerator) * bits > MAX_BITS:
        return None
    parts = [_whole_root(part, degree) for part in (base.numerator, base.denominator)]
    if None in parts:
        return None
    return Fraction(parts[0] or 0, parts[1] or 1) ** exponent.numerator


def _whole_root(value: int, degree: int) -> int | None:
    if degree == 3:
        low, high = 0, 1 << (value.bit_length() // 3 + 1)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if middle**3 < value else (low, middle)
        root = low
    else:
        root = math.isqrt(value) if degree == 2 else math.isqrt(math.isqrt(value))
    return root if root**degree == value else None


def _factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1 or value < 0:
        return None
    return Fraction(math.factorial(int(value))) if value <= MAX_FACTORIAL else None


def _binomial(top: Fraction, bottom: Fraction) -> Fraction | None:
    if top.denominator != 1 or bottom.denominator != 1 or not 0 <= bottom <= top or top > MAX_FACTORIAL:
        return None
    return Fraction(math.comb(int(top), int(bottom)))


def _whole(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def apply(*values: Fraction) -> Fraction | None:
        return Fraction(function(*map(int, values))) if all(v.denominator == 1 for v in values) else None

    return apply


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "add": lambda *values: sum(values, Fraction(0)),
    "mul": lambda left, right: left * right,
    "div": _divided,
    "neg": lambda value: -value,
    "pow": _power,
    "sqrt": lambda value: _root(value, Fraction(1, 2)),
    "root": lambda value, degree: _root(value, 1 / degree) if degree > 0 else None,
    "factorial": _factorial,
    "binom": _binomial,
    "abs": lambda value: max(value, -value),
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "percent": lambda value: value / 100,
}


@cache
def _context(precision: int) -> Any:
    """mpmath with a precision of its own, imported late: only what is not rational needs it."""
    context: Any = importlib.import_module("mpmath").MPContext()
    context.prec = precision
    return context


class Evaluation:
    """Computes expressions at one point, to one precision.

    point: the number of the point; symbols have values that depend on it and on their names. Point 0 has positive
    values around 1, point 1 larger ones, points 2 and 3 negative and mixed ones. values: those of symbols that have
    given ones. After a computation `gap` is the largest difference of magnitude, in bits, of two summands.
    """

    def __init__(self, precision: int, point: int, values: Mapping[str, Fraction] | None = None) -> None:
        self.values = values or {}
        self.mp = _context(precision)
        self.precision = precision
        self.point = point
        self.gap = 0
        self._known: dict[Node, tuple[Any, int]] = {}

    def value(self, node: Node) -> tuple[Any, int]:
        """The value, and the power of two that bounds its error; raises UndefinedError."""
        if node not in self._known:
            try:
                self._known[node] = self._value(node)
            except (ValueError, ZeroDivisionError, OverflowError, TypeError, self.mp.NoConvergence) as error:
                raise UndefinedError(str(error)) from error
        return self._known[node]

    def _value(self, node: Node) -> tuple[Any, int]:
        if isinstance(node, Number):
            return self._rounded(self.mp.mpf(node.value.numerator) / node.value.denominator)
        if isinstance(node, Symbol):
            return self._symbol(node.name)
        rational = exact(node)
        if rational is not None:
            # 1 + 10^(-200) is rounded to 1.
            bits = max(rational.numerator.bit_length(), rational.denominator.bit_length())
            self.gap = max(self.gap, min(bits, MAX_GAP_OF_NUMBER))
            return self._rounded(self.mp.mpf(rational.numerator) / rational.denominator)
        rule = getattr(self, f"_{node.function}", None) if node.function in _RULES else None
        if rule is not None:
            return rule(*(self.value(argument) for argument in node.arguments))
        if node.function in _FUNCTIONS:
            return self._function(node.function, [self.value(argument) for argument in node.arguments])
        return self._opaque(node)

    def magnitude(self, value: Any) -> int:
        """The power of two above the absolute value."""
        return EXACT if not value else int(self.mp.mag(value))

    def _rounded(self, value: Any, error: int = EXACT) -> tuple[Any, int]:
        return value, max(error, self.magnitude(value) - self.precision) + 1

    def _note_gap(self, *arguments: Any) -> None:
        """A tiny argument may be added to 1 within a function: exp(x) is 1 + x, cos(x) is 1 - x^2/2."""
        self.gap = max([self.gap, *(-2 * self.magnitude(argument) for argument in arguments if argument)])

    def _symbol(self, name: str) -> tuple[Any, int]:
        if name in {"\\pi", "e"}:
            return self._rounded(+self.mp.pi if name == "\\pi" else +self.mp.e)
        if name == "i":
            return self.mp.mpc(0, 1), EXACT
        if name == "\\infty":
            raise UndefinedError("infinity is no number")
        if name in self.values:
            return self._rounded(self.mp.mpf(self.values[name].numerator) / self.values[name].denominator)
        drawn = self._drawn(name, str(self.point))
        size = (1, 12, 1, 3)[self.point]
        value = size * (drawn + self.mp.mpf(1) / 3)
        is_negative = self.point == 2 or (self.point == 3 and self._drawn(name, "sign") > 0.5)
        return self._rounded(-value if is_negative else value)

    def _drawn(self, *keys: str) -> Any:
        """A number from 0 to 1 that depends on the keys alone."""
        digest = hashlib.blake2b("\0".join(keys).encode(), digest_size=12).digest()
        return self.mp.mpf(int.from_bytes(digest, "big")) / (1 << 96)

    def _opaque(self, node: Apply) -> tuple[Any, int]:
        """A value drawn by the name of the function and the values of its arguments, since nothing else is known."""
        keys = [node.function]
        for argument in node.arguments:
            value, _ = self.value(argument)
            scale = self.magnitude(value)
            parts = (self.mp.re(value), self.mp.im(value))
            keys.append(f"{scale}:{[int(self.mp.nint(self.mp.ldexp(part, 100 - scale))) for part in parts]}")
        return self._rounded(self._drawn(*keys) + 1)

    def _add(self, *terms: tuple[Any, int]) -> tuple[Any, int]:
        magnitudes = [self.magnitude(value) for value, _ in terms if value]
        if magnitudes:
            self.gap = max(self.gap, max(magnitudes) - min(magnitudes))
        error = max([*(error for _, error in terms), max(magnitudes, default=EXACT) - self.precision])
        return sum((value for value, _ in terms), self.mp.mpf(0)), error + len(terms).bit_length()

    def _neg(self, term: tuple[Any, int]) -> tuple[Any, int]:
        return -term[0], term[1]

    def _mul(self, left: tuple[Any, int], right: tuple[Any, int]) -> tuple[Any, int]:
        error = max(left[1] + self.magnitude(right[0]), right[1] + self.magnitude(left[0]), left[1] + right[1])
        return self._rounded(left[0] * right[0], error + 1)

    def _div(self, top: tuple[Any, int], bottom: tuple[Any, int]) -> tuple[Any, int]:
        size = self.magnitude(bottom[0])
        if size <= bottom[1] + 1:
            raise UndefinedError("division by zero")
        value = top[0] / bottom[0]
        return self._rounded(value, max(top[1], bottom[1] + self.magnitude(value)) - size + 2)

    def _exp(self, argument: tuple[Any, int]) -> tuple[Any, int]:
        if self.magnitude(argument[0]) > MAX_MAGNITUDE or argument[1] > 0:
            raise UndefinedError("too large")
        value = self.mp.exp(argument[0])
        self._note_gap(argument[0])
        return self._rounded(value, self.magnitude(value) + argument[1] + 1)

    def _log_e(self, argument: tuple[Any, int]) -> tuple[Any, int]:
        size = self.magnitude(argument[0])
        if size <= argument[1] + 1:
            raise UndefinedError("logarithm of zero")
        return self._rounded(self.mp.log(argument[0]), argument[1] - size + 2)

    def _pow(self, base: tuple[Any, int], exponent: tuple[Any, int]) -> tuple[Any, int]:
        if not base[0]:
            if self.mp.re(exponent[0]) > 0:
                return self.mp.mpf(0), EXACT
            raise UndefinedError("a power of zero")
        if self.magnitude(exponent[0]) > MAX_MAGNITUDE:
            raise UndefinedError("too large")
        if exponent[0] == self.mp.nint(self.mp.re(exponent[0])) and exponent[1] < -self.precision // 2:
            power = int(self.mp.re(exponent[0]))
            if abs(power) <= 1 << 64:
                value = base[0] ** power
                size = self.magnitude(value) - self.magnitude(base[0])
                return self._rounded(value, base[1] + size + abs(power).bit_length() + 1)
        return self._exp(self._mul(exponent, self._log_e(base)))

    def _sqrt(self, argument: tuple[Any, int]) -> tuple[Any, int]:
        return self._root(argument, (self.mp.mpf(2), EXACT))

    def _cbrt(self, argument: tuple[Any, int]) -> tuple[Any, int]:
        return self._root(argument, (self.mp.mpf(3), EXACT))

    def _root(self, argument: tuple[Any, int], degree: tuple[Any, int]) -> tuple[Any, int]:
        """The real root of a negative number where the degree is odd, otherwise the principal one."""
        value, error = argument
        if self.magnitude(value) <= error + 1:
            return self.mp.mpf(0), error // 2 if error > EXACT else EXACT
        is_whole = not self.mp.im(degree[0]) and degree[0] == self.mp.nint(degree[0]) and degree[0] > 0
        is_odd = is_whole and degree[0] < 1 << 64 and int(degree[0]) % 2 == 1
        if is_odd and not self.mp.im(value) and value < 0:
            return self._neg(self._root((-value, error), degree))
        if is_whole and degree[0] == 2:
            result = self.mp.sqrt(value)
            return self._rounded(result, error - self.magnitude(result) + 1)
        return self._pow(argument, self._div((self.mp.mpf(1), EXACT), degree))

    def _abs(self, argument: tuple[Any, int]) -> tuple[Any, int]:
        return abs(argument[0]), argument[1]

    def _floor(self, argument: tuple[Any, int]) -> tuple[Any, int]:
        return self._to_whole(argument, self.mp.floor)

    def _ceil(self, argument: tuple[Any, int]) -> tuple[Any, int]:
        return self._to_whole(argument, self.mp.ceil)

    def _to_whole(self, argument: tuple[Any, int], function: Callable[[Any], Any]) -> tuple[Any, int]:
        value, error = argument
        if self.mp.im(value) or self.magnitude(value) > self.precision // 2:
            raise UndefinedError("no real number, or a large one")
        nearest = self.mp.nint(value)
        is_whole = self.magnitude(value - nearest) <= error + 1
        return (nearest if is_whole else function(value)), EXACT

    def _function(self, name: str, arguments: list[tuple[Any, int]]) -> tuple[Any, int]:
        """A function of the library; its error is that of its arguments times a numeric derivative."""
        function = _FUNCTIONS[name]
        values = [value for value, _ in arguments]
        limit = 64 if name in {"factorial", "binom"} else MAX_MAGNITUDE
        if any(self.magnitude(value) > limit for value in values):
            raise UndefinedError("too large")
        result = function(self.mp, *values)
        self._note_gap(*values)
        error = self.magnitude(result) - self.precision + 8
        for index, (value, own) in enumerate(arguments):
            shift = max(self.magnitude(value), own) - self.precision // 3 if value else -self.precision // 3
            moved = [*values[:index], value + self.mp.ldexp(1, shift), *values[index + 1 :]]
            error = max(
                error, self.magnitude(function(self.mp, *moved) - result) - shift + max(own, shift - self.precision) + 2
            )
        if not self.mp.isfinite(result):
            raise UndefinedError("infinite")
        return result, error


_RULES = {"add", "neg", "mul", "div", "exp", "pow", "sqrt", "cbrt", "root", "abs", "floor", "ceil"}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: (lambda mp, x, name=name: getattr(mp, name)(x)) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{
        name: (lambda mp, x, name=name: getattr(mp, name)(x))
        for name in ("sinh", "cosh", "tanh", "coth", "sech", "csch")
    },
    **{
        f"arc{name}": (lambda mp, x, name=name: getattr(mp, f"a{name}")(x))
        for name in ("sin", "cos", "tan", "sec", "csc")
    },
    "arccot": lambda mp, x: mp.pi / 2 - mp.atan(x),
    "arsinh": lambda mp, x: mp.asinh(x),
    "arcosh": lambda mp, x: mp.acosh(x),
    "artanh": lambda mp, x: mp.atanh(x),
    "ln": lambda mp, x: mp.log(x),
    "log": lambda mp, x, base=10: mp.log(x) / mp.log(base),
    "factorial": lambda mp, x: mp.factorial(x),
    "binom": lambda mp, n, k: mp.binomial(n, k),
    "degree": lambda mp, x: x * mp.pi / 180,
    "percent": lambda _, x: x / 100,
    "Re": lambda mp, x: mp.re(x),
    "Im": lambda mp, x: mp.im(x),
    "conj": lambda mp, x: mp.conj(x),
    "arg": lambda mp, x: mp.arg(x),
    "cis": lambda mp, x: mp.expj(x),
    "sgn": lambda mp, x: mp.sign(x),
    "max": lambda _, *values: max(values),
    "min": lambda _, *values: min(values),
}

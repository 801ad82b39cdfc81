"""One form for equal small expressions: polynomials in letters, roots and other functions, multiplied out."""

from fractions import Fraction

from treepo.verify.expressions.nodes import Node, Number, Symbol
from treepo.verify.expressions.numeric import exact

MAX_TERMS = 60
MAX_EXPONENT = 12
MAX_ROOT = 10**9
"""Largest number whose square root is simplified."""

MAX_TEXT_LEN = 400

Monomial = tuple[tuple[str, Fraction], ...]
"""Factors by name with their powers; the root of a whole number n is the factor named n to a fraction."""

Polynomial = dict[Monomial, Fraction]


class TooLargeError(ValueError):
    """The expression has no normal form of a bounded size."""


def normal_form(node: Node) -> str | None:
    """The expression multiplied out, its terms in order; None where it would be too large."""
    try:
        text = _text(_polynomial(node))
    except TooLargeError:
        return None
    return text if len(text) <= MAX_TEXT_LEN else None


def _polynomial(node: Node) -> Polynomial:
    if isinstance(node, Number):
        return {(): node.value} if node.value else {}
    if isinstance(node, Symbol):
        return {((node.name, Fraction(1)),): Fraction(1)}
    value = exact(node)
    if value is not None:
        return {(): value} if value else {}
    rule = _RULES.get(node.function)
    if rule is not None:
        return rule(*node.arguments)
    arguments = ", ".join(_text(_polynomial(argument)) for argument in node.arguments)
    return {((f"{node.function}({arguments})", Fraction(1)),): Fraction(1)}


def _sum(*nodes: Node) -> Polynomial:
    total: Polynomial = {}
    for node in nodes:
        for monomial, coefficient in _polynomial(node).items():
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    return {monomial: coefficient for monomial, coefficient in total.items() if coefficient}


def _product(first: Polynomial, second: Polynomial) -> Polynomial:
    if len(first) * len(second) > MAX_TERMS:
        raise TooLargeError
    result: Polynomial = {}
    for one, a in first.items():
        for other, b in second.items():
            monomial, factor = _times(one, other)
            result[monomial] = result.get(monomial, Fraction(0)) + a * b * factor
    return {monomial: coefficient for monomial, coefficient in result.items() if coefficient}


def _times(first: Monomial, second: Monomial) -> tuple[Monomial, Fraction]:
    """The product of two monomials, and the rational number that whole powers of numbers and of i give."""
    powers, factor = dict(first), Fraction(1)
    for name, power in second:
        powers[name] = powers.get(name, Fraction(0)) + power
    for name in list(powers):
        power = powers[name]
        if name.isdecimal():
            whole = power.numerator // power.denominator
            if abs(whole) > MAX_EXPONENT:
                raise TooLargeError
            factor *= Fraction(int(name)) ** whole
            powers[name] = power - whole
        elif name == "i" and power.denominator == 1:
            factor *= -1 if power % 4 in {2, 3} else 1
            powers[name] = power % 2
    return tuple(sorted((name, power) for name, power in powers.items() if power)), factor


def _power(base: Node, exponent: Node) -> Polynomial:
    power = exact(exponent)
    if power is None:
        name = f"({_text(_polynomial(base))})^({_text(_polynomial(exponent))})"
        return {((name, Fraction(1)),): Fraction(1)}
    return _raised(_polynomial(base), power)


def _raised(base: Polynomial, power: Fraction) -> Polynomial:
    if abs(power.numerator) > MAX_EXPONENT or power.denominator > MAX_EXPONENT:
        raise TooLargeError
    if power.denominator == 1 and (power >= 0 or len(base) == 1):
        inverse = _inverse(base) if power < 0 else base
        result: Polynomial = {(): Fraction(1)}
        for _ in range(abs(int(power))):
            result = _product(result, inverse)
        return result
    if not base:
        raise TooLargeError
    if len(base) == 1 and list(base) == [()]:
        return _root(base[()], power)
    return {((f"({_text(base)})", power),): Fraction(1)}


def _inverse(base: Polynomial) -> Polynomial:
    ((monomial, coefficient),) = base.items()
    inverted, factor = _times((), tuple((name, -power) for name, power in monomial))
    return {inverted: factor / coefficient}


def _root(value: Fraction, power: Fraction) -> Polynomial:
    """A rational power of a positive number: of the primes of its numerator and denominator."""
    if value < 0 and power == Fraction(1, 2):
        return _product(_root(-value, power), {(("i", Fraction(1)),): Fraction(1)})
    if value < 0 or max(value.numerator, value.denominator) > MAX_ROOT:
        raise TooLargeError
    result: Polynomial = {(): Fraction(1)}
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        for prime, exponent in _primes(part):
            monomial, factor = _times((), ((str(prime), power * exponent * sign),))
            result = _product(result, {monomial: factor})
    return result


def _primes(value: int) -> list[tuple[int, int]]:
    found, candidate = [], 2
    while candidate * candidate <= value:
        exponent = 0
        while value % candidate == 0:
            value, exponent = value // candidate, exponent + 1
        if exponent:
            found.append((candidate, exponent))
        candidate += 1
    return [*found, (value, 1)] if value > 1 else found


def _quotient(top: Node, bottom: Node) -> Polynomial:
    below = _polynomial(bottom)
    if not below:
        raise TooLargeError
    if len(below) == 1:
        return _product(_polynomial(top), _inverse(below))
    return _product(_polynomial(top), {((f"({_text(below)})", Fraction(-1)),): Fraction(1)})


def _negative(node: Node) -> Polynomial:
    return {monomial: -coefficient for monomial, coefficient in _polynomial(node).items()}


_RULES = {
    "add": _sum,
    "neg": _negative,
    "mul": lambda left, right: _product(_polynomial(left), _polynomial(right)),
    "div": _quotient,
    "pow": _power,
    "sqrt": lambda node: _raised(_polynomial(node), Fraction(1, 2)),
}


def _text(polynomial: Polynomial) -> str:
    """The terms in order: those with more letters first."""
    if not polynomial:
        return "0"
    ordered = sorted(polynomial.items(), key=lambda item: (-sum(p for _, p in item[0]), item[0]))
    text = ""
    for monomial, coefficient in ordered:
        factors = [_factor(name, power) for name, power in monomial]
        size = abs(coefficient)
        if size != 1 or not factors:
            factors.insert(0, str(size))
        sign = "-" if coefficient < 0 else "+"
        text += f" {sign} " if text else "-" if coefficient < 0 else ""
        text += "*".join(factors)
    return text


def _factor(name: str, power: Fraction) -> str:
    if name.isdecimal() and power == Fraction(1, 2):
        return f"sqrt({name})"
    return name if power == 1 else f"{name}^{power}" if power.denominator == 1 and power > 0 else f"{name}^({power})"

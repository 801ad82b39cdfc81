"""Whether two expressions are equal: exactly where both are rational, otherwise by their values at several points."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from treepo.verify.expressions.nodes import PI, Apply, Node, Number, subtrees, symbols
from treepo.verify.expressions.numeric import MAX_MAGNITUDE, Evaluation, UndefinedError, exact

PRECISION = 224
"""Bits of the first comparison; the second takes as many as cancellation in the expressions asks for."""

MAX_PRECISION = 6000
MAX_SLOW_PRECISION = 1000
"""Most bits of the second comparison, and where it computes factorials of numbers that are not whole."""

SMALL_GAP = 50
"""Bits of cancellation in functions of letters that the first comparison has to spare."""

NUM_POINTS = 4
NUM_STEPS = 120
"""Points at which functions with steps are compared: halves from 0."""

_STEPPED = {"floor", "ceil", "gcd", "lcm", "sgn", "max", "min"}

MIN_DIGITS = 6
"""Fewest significant digits of a decimal that may stand for a number that it is rounded from."""

MAX_DIGITS = 12
"""Digits of such a decimal that are looked at; a computer's own rounding shows in those behind them."""


@dataclass(frozen=True)
class Tolerance:
    """The difference of two numbers that counts as none: relative to the second one, or absolute."""

    relative: float = 0.0
    absolute: float = 0.0

    def covers(self, difference: Any, second: Any) -> bool:
        """Whether a difference is none."""
        return bool(difference <= self.absolute or difference <= self.relative * abs(second))


EQUAL = Tolerance()


def are_equal(first: Node, second: Node, tolerance: Tolerance = EQUAL) -> bool:
    """Whether two expressions have the same value for all values of their letters.

    Raises UndefinedError if one has no value, or none that can be computed within the bounds, and they are not the
    same expression.
    """
    if first == second:
        return True
    left, right = exact(first), exact(second)
    if left is not None and right is not None:
        if left == right or _is_rounded(first, right) or _is_rounded(second, left):
            return True
        return tolerance.covers(abs(float(left - right)), float(right)) if tolerance != EQUAL else False
    names = symbols(first) | symbols(second)
    if not names:
        return _are_equal_numbers(first, second, tolerance)
    return _are_equal_functions(first, second)


def _are_equal_numbers(first: Node, second: Node, tolerance: Tolerance) -> bool:
    evaluation = Evaluation(PRECISION, 0)
    left, right = evaluation.value(first), evaluation.value(second)
    for decimal, (value, _) in ((first, right), (second, left)):
        if not evaluation.mp.im(value) and _is_rounded(decimal, evaluation.mp.re(value)):
            return True
    if tolerance != EQUAL and tolerance.covers(abs(left[0] - right[0]), right[0]):
        return True
    return not _differ(evaluation, left, right) and _agree_closely(first, second, evaluation.gap, 0)


def _are_equal_functions(first: Node, second: Node) -> bool:
    """Compare at points where both are real, or at the first one where both have a value."""
    num_real, complex_point = 0, None
    for point in range(NUM_POINTS):
        evaluation = Evaluation(PRECISION, point)
        try:
            left, right = evaluation.value(first), evaluation.value(second)
        except UndefinedError:
            continue
        if not (_is_real(evaluation, left) and _is_real(evaluation, right)):
            complex_point = point if complex_point is None else complex_point
            continue
        if _differ(evaluation, left, right):
            return False
        if num_real == 0 and evaluation.gap > SMALL_GAP and not _agree_closely(first, second, evaluation.gap, point):
            return False
        num_real += 1
    if num_real:
        has_steps = any(
            isinstance(n, Apply) and n.function in _STEPPED for side in (first, second) for n in subtrees(side)
        )
        return not has_steps or _agree_at_steps(first, second, sorted(symbols(first) | symbols(second)))
    if complex_point is None:
        raise UndefinedError("no value at any point")
    evaluation = Evaluation(PRECISION, complex_point)
    left, right = evaluation.value(first), evaluation.value(second)
    return not _differ(evaluation, left, right) and _agree_closely(first, second, evaluation.gap, complex_point)


def _agree_at_steps(first: Node, second: Node, names: Sequence[str]) -> bool:
    """Whether functions with steps are equal at small whole numbers and between them, wherever they have a value."""
    for point in range(NUM_STEPS):
        draws = random.Random(point)
        values = {name: Fraction(draws.randint(0, NUM_STEPS), 2) for name in names}
        if len(names) == 1:
            values = {names[0]: Fraction(point, 2)}
        evaluation = Evaluation(PRECISION, 0, values)
        try:
            left, right = evaluation.value(first), evaluation.value(second)
        except UndefinedError:
            continue
        if _differ(evaluation, left, right):
            return False
    return True


def _is_real(evaluation: Evaluation, value: tuple[Any, int]) -> bool:
    return evaluation.magnitude(evaluation.mp.im(value[0])) <= value[1] + 1


def _differ(evaluation: Evaluation, left: tuple[Any, int], right: tuple[Any, int]) -> bool:
    """Whether the values differ by more than their errors."""
    difference = left[0] - right[0]
    if not difference:
        return False
    sizes = [evaluation.magnitude(value) for value, _ in (left, right) if value]
    error = max(left[1], right[1], max(sizes) - evaluation.precision)
    return evaluation.magnitude(difference) > error + 3


def _agree_closely(first: Node, second: Node, gap: int, point: int) -> bool:
    """Compare again, with the precision that the largest difference of two summands asks for."""
    functions = {node.function for side in (first, second) for node in subtrees(side) if isinstance(node, Apply)}
    limit = MAX_SLOW_PRECISION if functions & {"factorial", "binom"} else MAX_PRECISION
    precision = 2 * PRECISION + gap + MAX_MAGNITUDE // 10
    if precision > limit:
        raise UndefinedError("too much cancellation")
    evaluation = Evaluation(precision, point)
    return not _differ(evaluation, evaluation.value(first), evaluation.value(second))


def _is_rounded(node: Node, value: Any) -> bool:
    """Whether a decimal of at least MIN_DIGITS digits is the value, rounded or cut."""
    if not isinstance(node, Number) or node.num_digits < MIN_DIGITS or not node.value:
        return False
    place = node.place + max(0, node.num_digits - MAX_DIGITS)
    unit = Fraction(10) ** place
    is_exact = isinstance(value, Fraction)
    own, half, whole = (part if is_exact else _as(value, part) for part in (node.value, unit / 2, unit))
    missing = (value - own) * (1 if node.value > 0 else -1)
    return bool(-half <= missing < whole)


def _as(like: Any, value: Fraction) -> Any:
    context = like.context
    return context.mpf(value.numerator) / value.denominator


def scaled(node: Node, factor: Fraction) -> Node:
    """The node times a rational number."""
    if factor == 1:
        return node
    if isinstance(node, Number):
        shifted = _shifted(node, factor)
        return shifted or Number(node.value * factor)
    return Apply("mul", (Number(factor), node))


def _shifted(node: Number, factor: Fraction) -> Number | None:
    """A decimal times a power of ten is a decimal; None for other factors."""
    digits = str(factor.numerator * factor.denominator)
    if not node.num_digits or 1 not in {factor.numerator, factor.denominator} or digits.strip("0") != "1":
        return None
    shift = len(digits) - 1
    return Number(node.value * factor, node.num_digits, node.place + (shift if factor > 1 else -shift))


def radians(node: Node) -> Node:
    """An angle in degrees as a number."""
    return Apply("div", (Apply("mul", (node, PI)), Number(Fraction(180))))


def are_proportional(first: Node, second: Node, only_positive: bool = False) -> bool:
    """Whether one expression is a constant multiple of the other; neither is zero. only_positive: the constant is > 0.

    Raises UndefinedError where that cannot be computed.
    """
    ratios = []
    for point in range(NUM_POINTS):
        evaluation = Evaluation(PRECISION, point)
        try:
            left, right = evaluation.value(first), evaluation.value(second)
            if evaluation.magnitude(left[0]) <= left[1] + 1:
                continue
            ratios.append((evaluation, evaluation._div(right, left)))
        except UndefinedError:
            continue
    if len(ratios) < 2:
        raise UndefinedError("no value at two points")
    base = ratios[0][1]
    if not base[0] or any(_differ(evaluation, base, ratio) for evaluation, ratio in ratios[1:]):
        return False
    return not only_positive or bool(not base[0].imag and base[0].real > 0)

"""Whether two answers are the same answer, as a careful teacher would say, or by stricter rules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar

from treepo.verify.expressions.answers import (
    Answer,
    Based,
    Choice,
    Intervals,
    Items,
    Labelled,
    Matrix,
    Piece,
    Ratio,
    Relation,
    Text,
    Value,
)
from treepo.verify.expressions.equality import EQUAL, Tolerance, are_equal, are_proportional, radians, scaled
from treepo.verify.expressions.labels import WORDS
from treepo.verify.expressions.nodes import Node, Number, Symbol
from treepo.verify.expressions.numeric import UndefinedError, exact
from treepo.verify.expressions.sets import infinity_sign, single, united
from treepo.verify.expressions.units import DEGREE, PERCENT, RADIAN, Unit

T = TypeVar("T")
Strictness = Literal["lenient", "strict"]

MAX_UNSORTED = 12
"""Elements of two lists that are compared each with each, after those that are the same have been left out."""


@dataclass(frozen=True)
class Rules:
    """What is passed over; see MathVerifier."""

    units: Strictness = "lenient"
    percent: Strictness = "lenient"
    order: Strictness = "lenient"
    tolerance: Tolerance = EQUAL


def same(first: Answer, second: Answer, rules: Rules) -> bool:
    """Whether two answers are the same; symmetric but for a relative tolerance, which is a share of the second.

    An answer without a name or unit may be the same as two that differ in them. Raises UndefinedError where that cannot
    be computed.
    """
    if first == second:
        return True
    if isinstance(first, Choice) or isinstance(second, Choice):
        return _same_choices(first, second, rules)
    if isinstance(first, Labelled) or isinstance(second, Labelled):
        return _same_labelled(first, second, rules)
    if isinstance(first, Items) != isinstance(second, Items):
        first, second = _element(first), _element(second)
    for one, other in ((first, second), (second, first)):
        compare = _COMPARISONS.get((type(one), type(other)))
        if compare is not None:
            return compare(one, other, rules)
    return False


def _same_choices(first: Answer, second: Answer, rules: Rules) -> bool:
    """(B) 12 is B, and 12, but not (C) 12."""
    if isinstance(first, Choice) and isinstance(second, Choice):
        return first.letter == second.letter
    choice, other = (first, second) if isinstance(first, Choice) else (second, first)
    assert isinstance(choice, Choice)
    if other == Value(Symbol(choice.letter)):
        return True
    return same(choice.answer, other, rules) if first is choice else same(other, choice.answer, rules)


def _element(answer: Answer) -> Answer:
    """The only element of a set or list, or the answer itself."""
    is_single = isinstance(answer, Items) and len(answer.elements) == 1 and answer.kind in {"set", "list"}
    return answer.elements[0] if isinstance(answer, Items) and is_single else answer


def _same_labelled(first: Answer, second: Answer, rules: Rules) -> bool:
    """x = 5 is 5 and x = 5, but not y = 5; as an equation it may also be y = 2x + 3 for 2x - y = -3."""
    if isinstance(first, Labelled) and isinstance(second, Labelled):
        if first.label == second.label or WORDS in {first.label, second.label}:
            return same(first.answer, second.answer, rules)
        if _is_function_of_letter(first.label, second.label) or _is_function_of_letter(second.label, first.label):
            return same(first.answer, second.answer, rules)
        return bool(first.relation and second.relation) and same(_inner(first), _inner(second), rules)
    labelled, other = (first, second) if isinstance(first, Labelled) else (second, first)
    assert isinstance(labelled, Labelled)
    if isinstance(other, Relation):
        return labelled.relation is not None and same(labelled.relation, other, rules)
    if isinstance(other, Items) and other.labels and len(set(other.labels)) > 1:
        return _same_assignment(labelled, other, rules)
    return same(labelled.answer, other, rules) if first is labelled else same(other, labelled.answer, rules)


def _is_function_of_letter(function: str, letter: str) -> bool:
    """f(x) = ... and y = ... are the same."""
    return letter == "y" and len(function) == 4 and function[1] == "(" and function[-1] == ")"


def _inner(labelled: Labelled) -> Answer:
    return labelled.relation or labelled.answer


def _same_assignment(labelled: Labelled, items: Items, rules: Rules) -> bool:
    """(x, y) = (1, 2) is y = 2, x = 1."""
    names = labelled.label.strip("()").split(",")
    if not labelled.label.startswith("(") or sorted(names) != sorted(items.labels) or len(set(names)) < len(names):
        return False
    by_name = dict(zip(items.labels, items.elements, strict=True))
    return same(labelled.answer, Items(tuple(by_name[name] for name in names), "("), rules)


def _same_values(first: Value, second: Value, rules: Rules) -> bool:
    if first.unit is not None and second.unit is not None:
        return _same_quantities(first, second, rules)
    if first.unit is None and second.unit is None:
        return same_nodes(first.node, second.node, rules)
    is_first = first.unit is not None
    quantity, plain = (first, second) if is_first else (second, first)
    assert quantity.unit is not None

    def agree(node: Node) -> bool:
        return same_nodes(node, plain.node, rules) if is_first else same_nodes(plain.node, node, rules)

    if quantity.product is not None and _safely(agree, quantity.product):
        return True
    if quantity.unit == PERCENT:
        own = rules.percent == "lenient" and _is_at_least_one(quantity.node) and agree(quantity.node)
        return own or agree(scaled(quantity.node, Fraction(1, 100)))
    if quantity.unit == DEGREE and agree(radians(quantity.node)):
        return True
    if quantity.unit == RADIAN:
        return agree(quantity.node)
    return rules.units == "lenient" and not quantity.is_compound and agree(quantity.node)


def _is_at_least_one(node: Node) -> bool:
    """0.5% is not 0.5, while 50% may be given as 50."""
    value = exact(node)
    return value is None or abs(value) >= 1


def _safely(agree: Callable[[Node], bool], node: Node) -> bool:
    try:
        return agree(node)
    except UndefinedError:
        return False


def _same_quantities(first: Value, second: Value, rules: Rules) -> bool:
    one, other = first.unit, second.unit
    assert one is not None and other is not None
    if first.note and second.note and first.note != second.note:
        return False
    if {one, other} == {DEGREE, RADIAN}:
        left, right = (radians(value.node) if value.unit == DEGREE else value.node for value in (first, second))
        return same_nodes(left, right, rules)
    if one.dimension != other.dimension:
        return _is_degree_of(one, other) and same_nodes(first.node, second.node, rules)
    if rules.units == "strict" and one.factor != other.factor:
        return False
    # Divided by the smaller unit, decimals stay decimals.
    ratio = one.factor / other.factor
    if ratio >= 1:
        return same_nodes(scaled(first.node, ratio), second.node, rules)
    return same_nodes(first.node, scaled(second.node, 1 / ratio), rules)


def _is_degree_of(first: Unit, second: Unit) -> bool:
    """Degrees, and those of a scale of temperature."""
    names = {name for unit in (first, second) for name, _ in unit.dimension}
    return DEGREE in (first, second) and names in ({"degree", "degree_C"}, {"degree", "degree_F"})


def same_nodes(first: Node, second: Node, rules: Rules) -> bool:
    """Whether two expressions are equal within the tolerance; infinity equals only itself."""
    infinite = infinity_sign(first), infinity_sign(second)
    if any(infinite):
        return infinite[0] == infinite[1]
    return are_equal(first, second, rules.tolerance)


def _same_texts(first: Text, second: Text, _: Rules) -> bool:
    return first.text == second.text


def _same_items(first: Items, second: Items, rules: Rules) -> bool:
    kinds = {first.kind, second.kind}
    if len(first.elements) != len(second.elements) or (kinds & {"set"} and kinds - {"set", "list"}):
        return False
    if first.labels and second.labels:
        return _same_assignments(first, second, rules)
    if len(kinds - {"list"}) > 1 and kinds != {"(", "<"}:
        return False
    if "[" in kinds and len(kinds) > 1 and len(first.elements) == 2:
        # [1, 2] is an interval as well as a list.
        return False
    if kinds == {"set"} or (kinds <= {"set", "list"} and _has_no_order(first, second, rules)):
        return _same_unordered(first.elements, second.elements, lambda a, b: same(a, b, rules))
    pairs = zip(first.elements, second.elements, strict=True)
    return all(same(one, other, rules) for one, other in pairs)


def _has_no_order(first: Items, second: Items, rules: Rules) -> bool:
    """Whether a list may be given in any order: not with different names, and not where order counts."""
    if rules.order == "strict" and {first.kind, second.kind} == {"list"}:
        return False
    names = [name for items in (first, second) for name in items.labels]
    stems = {name.partition("_")[0] for name in names}
    numbers = sorted(name.partition("_")[2] for name in names)
    return len(set(names)) <= 1 or (len(stems) == 1 and numbers == [str(k + 1) for k in range(len(names))])


def _same_assignments(first: Items, second: Items, rules: Rules) -> bool:
    """x = 1, y = 2 in any order of the names."""

    def agree(one: tuple[str, Answer], other: tuple[str, Answer]) -> bool:
        return one[0] == other[0] and same(one[1], other[1], rules)

    pairs = [list(zip(items.labels, items.elements, strict=True)) for items in (first, second)]
    return _same_unordered(pairs[0], pairs[1], agree)


def _same_unordered(first: Sequence[T], second: Sequence[T], agree: Callable[[T, T], bool]) -> bool:
    """Whether the elements pair up; equal ones are left out before each is compared with each."""
    ones, others = list(first), list(second)
    if len(ones) != len(others):
        return False
    for one in first:
        if one in others:
            ones.remove(one)
            others.remove(one)
    if len(ones) > MAX_UNSORTED:
        return False
    for one in ones:
        found = next((at for at, other in enumerate(others) if agree(one, other)), None)
        if found is None:
            return False
        others.pop(found)
    return True


def _same_intervals(first: Intervals, second: Intervals, rules: Rules) -> bool:
    if first.variable and second.variable and first.variable != second.variable:
        both = first.relation, second.relation
        return both[0] is not None and both[1] is not None and _same_relations(both[0], both[1], rules)
    one, other = united(first.pieces), united(second.pieces)
    return _same_unordered(one, other, lambda a, b: _same_pieces(a, b, rules))


def _same_pieces(first: Piece, second: Piece, rules: Rules) -> bool:
    closed = (first.has_low, first.has_high) == (second.has_low, second.has_high)
    return closed and same_nodes(first.low, second.low, rules) and same_nodes(first.high, second.high, rules)


def as_intervals(items: Items) -> Intervals | None:
    """A pair in round or square brackets as an interval, a set of numbers as intervals of one; None for others."""
    nodes = [element.node for element in items.elements if isinstance(element, Value) and element.unit is None]
    if len(nodes) < len(items.elements) or items.labels:
        return None
    if items.kind == "set":
        return Intervals(tuple(single(node) for node in nodes))
    if len(nodes) != 2 or items.kind not in {"(", "["}:
        return None
    return Intervals((Piece(nodes[0], nodes[1], items.kind == "[", items.kind == "["),))


def _same_as_intervals(items: Items, intervals: Intervals, rules: Rules) -> bool:
    own = as_intervals(items)
    return own is not None and _same_intervals(own, intervals, rules)


def _same_relations(first: Relation, second: Relation, _: Rules) -> bool:
    if first.sign != second.sign:
        return False
    has_direction = first.sign in {"<", "<="}
    return are_proportional(first.difference, second.difference, only_positive=has_direction)


def _relation_of_intervals(intervals: Intervals, relation: Relation, rules: Rules) -> bool:
    return intervals.relation is not None and _same_relations(intervals.relation, relation, rules)


def _same_matrices(first: Matrix, second: Matrix, rules: Rules) -> bool:
    if [len(row) for row in first.rows] != [len(row) for row in second.rows]:
        return False
    pairs = zip(first.rows, second.rows, strict=True)
    return all(same_nodes(a, b, rules) for one, other in pairs for a, b in zip(one, other, strict=True))


def _vector(matrix: Matrix, items: Items, rules: Rules) -> bool:
    """A matrix of one row or column, and a tuple."""
    is_vector = len(matrix.rows) == 1 or all(len(row) == 1 for row in matrix.rows)
    nodes = [node for row in matrix.rows for node in row]
    if not is_vector or items.kind not in {"(", "<", "["} or len(nodes) != len(items.elements):
        return False
    return all(same(Value(node), element, rules) for node, element in zip(nodes, items.elements, strict=True))


def _same_ratios(first: Ratio, second: Ratio, rules: Rules) -> bool:
    if first.clock and second.clock:
        return _same_times(first, second)
    if first.half or second.half or len(first.parts) != len(second.parts):
        return False
    lead = first.parts[0], second.parts[0]
    return all(
        same_nodes(_times(a, lead[1]), _times(b, lead[0]), rules)
        for a, b in zip(first.parts[1:], second.parts[1:], strict=True)
    )


def _times(first: Node, second: Node) -> Node:
    values = exact(first), exact(second)
    return Number((values[0] or Fraction(0)) * (values[1] or Fraction(0)))


def _same_times(first: Ratio, second: Ratio) -> bool:
    """10 a.m. is 10:00 and 10:00 a.m., 22:00 is 10 p.m."""
    if first.half and second.half:
        return _of_day(first, first.half) == _of_day(second, second.half)
    for half in (first.half, second.half):
        if half:
            timed, other = (first, second) if first.half else (second, first)
            return timed.clock == other.clock or _of_day(timed, half) == other.clock
    return first.clock == second.clock


def _of_day(time: Ratio, half: str) -> tuple[int, int, int]:
    hours, minutes, seconds = time.clock or (0, 0, 0)
    return hours % 12 + (12 if half == "pm" else 0) if hours <= 12 else hours, minutes, seconds


def _ratio_and_number(ratio: Ratio, value: Value, rules: Rules) -> bool:
    """2:3 is 2/3; 10 a.m. is 10 where units may be left out."""
    if value.unit is not None:
        return False
    if ratio.is_spelled:
        is_same = bool(ratio.parts) and same_nodes(ratio.parts[0], value.node, rules)
        return rules.units == "lenient" and is_same
    parts = [exact(part) for part in ratio.parts]
    if len(parts) != 2 or ratio.half or parts[0] is None or not parts[1]:
        return False
    return same_nodes(Number(parts[0] / parts[1]), value.node, rules)


def _same_based(first: Based, second: Based, _: Rules) -> bool:
    return first.base == second.base and first.digits == second.digits


def _based_and_number(based: Based, value: Value, rules: Rules) -> bool:
    """The same digits without their base, where units may be left out."""
    if rules.units == "strict" or value.unit is not None or not based.digits.isdecimal():
        return False
    return value.node == Number(Fraction(int(based.digits)))


def _text_and_value(text: Text, value: Value, _: Rules) -> bool:
    return isinstance(value.node, Symbol) and text.text == value.node.name and value.unit is None


_COMPARISONS: dict[tuple[type, type], Callable[..., bool]] = {
    (Value, Value): _same_values,
    (Text, Text): _same_texts,
    (Items, Items): _same_items,
    (Intervals, Intervals): _same_intervals,
    (Items, Intervals): _same_as_intervals,
    (Relation, Relation): _same_relations,
    (Intervals, Relation): _relation_of_intervals,
    (Matrix, Matrix): _same_matrices,
    (Matrix, Items): _vector,
    (Ratio, Ratio): _same_ratios,
    (Ratio, Value): _ratio_and_number,
    (Based, Based): _same_based,
    (Based, Value): _based_and_number,
    (Text, Value): _text_and_value,
}

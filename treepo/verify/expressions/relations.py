"""Equations and inequalities: what they say about a name, or what they are where they say nothing of the kind."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

from treepo.verify.expressions.answers import Answer, Intervals, Items, Labelled, Piece, Relation, Value
from treepo.verify.expressions.compare import Rules, same
from treepo.verify.expressions.equality import are_equal
from treepo.verify.expressions.labels import WORDS, change_of_depth, label_of
from treepo.verify.expressions.nodes import INFINITY, Apply, Node, Number, Symbol, negated, subtrees, symbols
from treepo.verify.expressions.numeric import UndefinedError, exact
from treepo.verify.expressions.sets import ALL, MINUS_INFINITY, intersected, united
from treepo.verify.expressions.text import UnreadableError
from treepo.verify.expressions.tokens import NUMBER, Token

RELATION_SIGNS = {"=": "=", "\\approx": "~", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\in": "in"}
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_UNREADABLE = {"\\to", "\\Rightarrow", "\\implies", "\\iff", "\\equiv", "\\notin", "\\propto", "\\subset", "\\subseteq"}

Read = Callable[[Sequence[Token]], Answer]


def split_relation(tokens: Sequence[Token]) -> tuple[list[Sequence[Token]], list[str]]:
    """What stands between the signs of relation outside of brackets, and these signs."""
    parts, signs, start, depth = [], [], 0, 0
    for at, token in enumerate(tokens):
        depth += change_of_depth(token)
        if depth == 0 and token.text in _UNREADABLE:
            raise UnreadableError("a sign that is not read")
        if depth == 0 and token.text in RELATION_SIGNS and token.kind != NUMBER:
            parts.append(tokens[start:at])
            signs.append(RELATION_SIGNS[token.text])
            start = at + 1
    return [*parts, tokens[start:]], signs


def read_relation(parts: list[Sequence[Token]], signs: list[str], read: Read) -> Answer:
    """What a chain of relations says; raises UnreadableError for one that contradicts itself, and for mixed ones."""
    if any(not part for part in parts[1:]):
        raise UnreadableError("a side is missing")
    if set(signs) <= {"=", "~"}:
        if not parts[0]:
            return read(parts[1]) if len(parts) == 2 else read_relation(parts[1:], signs[1:], read)
        return _equation(parts, signs, read)
    if signs == ["in"]:
        return _membership(parts, read)
    if len(signs) == 1:
        return _inequality(parts, signs[0], read)
    if len(signs) == 2 and (set(signs) <= {"<", "<="} or set(signs) <= {">", ">="}):
        return _double_inequality(parts, signs, read)
    raise UnreadableError("relations of several kinds")


def _equation(parts: list[Sequence[Token]], signs: list[str], read: Read) -> Answer:
    label = label_of(parts[0])
    if label is None and (label := label_of(parts[-1])) is not None:
        parts, signs = parts[::-1], signs[::-1]
    if label is None:
        return _without_label([read(part) for part in parts], signs)
    names = [label]
    while len(parts) > len(names) + 1 and (other := label_of(parts[len(names)])) is not None:
        names.append(other)
    answers = [read(part) for part in parts[len(names) :]]
    answer = _value_of_chain(answers, signs[len(names) :])
    if len(names) > 1:
        return Items(tuple(answer for _ in names), "list", tuple(names))
    return _labelled(label, parts[0], answer, read)


def _labelled(label: str, tokens: Sequence[Token], answer: Answer, read: Read) -> Answer:
    if label == WORDS or not isinstance(answer, Value) or answer.unit is not None:
        return Labelled(label, answer)
    try:
        left = read(tokens)
    except UnreadableError:
        return Labelled(label, answer)
    if not isinstance(left, Value):
        return Labelled(label, answer)
    relation = Relation(Apply("add", (left.node, negated(answer.node))), "=")
    # x = 2x - 5 does not say what x is.
    is_solved = left.node not in subtrees(answer.node)
    return Labelled(label, answer, relation) if is_solved else relation


def _value_of_chain(answers: list[Answer], signs: list[str]) -> Answer:
    """The most exact of answers that are all said to be equal; raises UnreadableError if they are not."""
    for first, second, sign in zip(answers, answers[1:], signs, strict=False):
        if not (same(first, second, Rules()) or (sign == "~" and _is_about(first, second))):
            raise UnreadableError("sides that differ")
    num_exact = next((at for at, sign in enumerate(signs) if sign == "~"), len(signs)) + 1
    return answers[num_exact - 1]


def _is_about(first: Answer, second: Answer) -> bool:
    """Whether the second is a decimal that agrees with the first in all but its last digit."""
    if not (isinstance(first, Value) and isinstance(second, Value) and isinstance(second.node, Number)):
        return False
    unit = Number(Fraction(10) ** (second.node.place if second.node.num_digits else 0))
    distance = Apply("abs", (Apply("div", (Apply("add", (first.node, negated(second.node))), unit)),))
    try:
        return are_equal(Apply("floor", (distance,)), Number(Fraction(0)))
    except UndefinedError:
        return False


def _without_label(answers: list[Answer], signs: list[str]) -> Answer:
    """2+3=5 is 5; an equation in letters is itself."""
    if all(same(first, second, Rules()) for first, second in pairwise(answers)):
        return answers[-1]
    nodes = [answer.node for answer in answers if isinstance(answer, Value) and answer.unit is None]
    has_letters = [bool(_letters(node)) for node in nodes]
    if len(nodes) == len(answers) and any(has_letters) and "~" not in signs:
        relations = [Relation(_difference(a, b), "=") for a, b in pairwise(nodes)]
        return relations[0] if len(relations) == 1 else Items(tuple(relations), "list")
    return _value_of_chain(answers, signs)


def _letters(node: Node) -> bool:
    """Whether the node has a letter, or an unknown function, whose value is not known."""
    return bool(symbols(node)) or any(isinstance(n, Apply) and n.function.endswith("()") for n in subtrees(node))


def _difference(first: Node, second: Node) -> Node:
    return Apply("add", (first, negated(second)))


def _membership(parts: list[Sequence[Token]], read: Read) -> Answer:
    label = label_of(parts[0])
    if label is None:
        raise UnreadableError("no name before a set")
    answer = read(parts[1])
    return Intervals(answer.pieces, label) if isinstance(answer, Intervals) else Labelled(label, answer)


def _node(tokens: Sequence[Token], read: Read) -> Node:
    answer = read(tokens)
    if not isinstance(answer, Value) or answer.unit is not None:
        raise UnreadableError("no number on a side of an inequality")
    return answer.node


def _half_line(sign: str, bound: Node) -> tuple[Piece, ...]:
    if sign == "!=":
        return (Piece(MINUS_INFINITY, bound, False, False), Piece(bound, INFINITY, False, False))
    if sign in {">", ">="}:
        return (Piece(bound, INFINITY, sign == ">=", False),)
    return (Piece(MINUS_INFINITY, bound, False, sign == "<="),)


def _inequality(parts: list[Sequence[Token]], sign: str, read: Read) -> Answer:
    if sign not in _FLIPPED:
        raise UnreadableError("a relation that is not read")
    left = label_of(parts[0]) if parts[0] else ""
    right = label_of(parts[1])
    if left is None and right is not None:
        parts, sign, left, right = parts[::-1], _FLIPPED[sign], right, None
    if not parts[0]:
        return Intervals(_half_line(sign, _node(parts[1], read)))
    if left is None and (absolute := _absolute(parts[0])):
        bound = _node(parts[1], read)
        return Intervals(_of_absolute([(sign, bound)]), absolute)
    bound = _node(parts[1], read)
    if left == WORDS or left is None or (left.startswith("\\") and len(parts[0]) > 1):
        relation = _relation(_node(parts[0], read), sign, bound) if left is None else None
        return (_solved(relation) if relation else None) or Intervals(_half_line(sign, bound), "")
    relation = None
    try:
        relation = _relation(_node(parts[0], read), sign, bound)
    except UnreadableError:
        return Intervals(_half_line(sign, bound), left)
    return Intervals(_half_line(sign, bound), left, relation)


def _relation(left: Node, sign: str, right: Node) -> Relation:
    """With only = , <, <= and != 0."""
    if sign in {">", ">="}:
        return Relation(_difference(right, left), _FLIPPED[sign])
    return Relation(_difference(left, right), sign)


def _solved(relation: Relation) -> Answer:
    """A linear inequality in one letter as an interval; others stay as they are."""
    names = symbols(relation.difference)
    values = (
        [exact(_substituted(relation.difference, Number(Fraction(x)))) for x in range(4)] if len(names) == 1 else []
    )
    if len(values) == 4 and None not in values:
        at = [value for value in values if value is not None]
        slope = at[1] - at[0]
        if slope and all(at[x + 1] - at[x] == slope for x in range(3)):
            sign = relation.sign if slope > 0 else _FLIPPED[relation.sign]
            return Intervals(_half_line(sign, Number(-at[0] / slope)), names.pop(), relation)
    return relation


def _substituted(node: Node, value: Node) -> Node:
    if isinstance(node, Symbol):
        return value if symbols(node) else node
    if isinstance(node, Number):
        return node
    return Apply(node.function, tuple(_substituted(argument, value) for argument in node.arguments))


def _absolute(tokens: Sequence[Token]) -> str | None:
    """The name between two bars."""
    if len(tokens) > 2 and (tokens[0].text, tokens[-1].text) == ("|", "|"):
        return label_of(tokens[1:-1])
    return None


def _of_absolute(conditions: list[tuple[str, Node]]) -> tuple[Piece, ...]:
    """The numbers whose absolute value meets all conditions."""
    found = ALL
    for sign, bound in conditions:
        if sign == "!=":
            found = intersected(intersected(found, _half_line("!=", bound)), _half_line("!=", negated(bound)))
            continue
        upper, lower = _half_line(sign, bound), _half_line(_FLIPPED[sign], negated(bound))
        found = intersected(found, intersected(upper, lower) if sign in {"<", "<="} else united((*lower, *upper)))
    return found


def _double_inequality(parts: list[Sequence[Token]], signs: list[str], read: Read) -> Answer:
    """a < x <= b."""
    if signs[0] in {">", ">="}:
        parts, signs = parts[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    low, high = _node(parts[0], read), _node(parts[2], read)
    if absolute := _absolute(parts[1]):
        return Intervals(_of_absolute([(_FLIPPED[signs[0]], low), (signs[1], high)]), absolute)
    name = label_of(parts[1])
    if name is not None:
        return Intervals((Piece(low, high, signs[0] == "<=", signs[1] == "<="),), name)
    middle = _node(parts[1], read)
    both = [_solved(_relation(low, signs[0], middle)), _solved(_relation(middle, signs[1], high))]
    if all(isinstance(one, Intervals) for one in both):
        first, second = (one for one in both if isinstance(one, Intervals))
        return Intervals(intersected(first.pieces, second.pieces), first.variable)
    return Items(tuple(both), "list")

"""One text for an answer, whatever the ground truth is: fractions as 1/2, sets in order."""

from fractions import Fraction

from treepo.verify.expressions.answers import (
    Answer,
    Based,
    Choice,
    Intervals,
    Items,
    Labelled,
    Matrix,
    Ratio,
    Relation,
    Text,
    Value,
)
from treepo.verify.expressions.nodes import Apply, Node, Number, Symbol
from treepo.verify.expressions.numeric import UndefinedError, exact
from treepo.verify.expressions.polynomials import normal_form
from treepo.verify.expressions.sets import united

_BINARY = {"mul": "*", "div": "/", "pow": "^"}


def canonical_text(answer: Answer) -> str:
    """The answer as text; names before an answer, and units, are left out."""
    if isinstance(answer, Labelled):
        return canonical_text(answer.answer)
    if isinstance(answer, Value):
        return node_text(answer.node)
    if isinstance(answer, Choice):
        return answer.letter
    if isinstance(answer, Text):
        return answer.text
    if isinstance(answer, Items):
        return _items(answer)
    if isinstance(answer, Intervals):
        return _intervals(answer)
    if isinstance(answer, Relation):
        return f"{node_text(answer.difference)} {answer.sign} 0"
    if isinstance(answer, Matrix):
        return "[" + ", ".join("[" + ", ".join(map(node_text, row)) + "]" for row in answer.rows) + "]"
    if isinstance(answer, Ratio):
        return _ratio(answer)
    assert isinstance(answer, Based)
    return f"{answer.digits}_{answer.base}"


def _items(items: Items) -> str:
    texts = [canonical_text(element) for element in items.elements]
    if items.kind in {"list", "set"}:
        ordered = texts if len(set(items.labels)) > 1 else sorted(texts)
        return "{" + ", ".join(ordered) + "}"
    closing = {"(": ")", "[": "]", "<": ">"}[items.kind]
    return items.kind + ", ".join(texts) + closing


def _intervals(intervals: Intervals) -> str:
    pieces = []
    for piece in united(intervals.pieces):
        low, high = node_text(piece.low), node_text(piece.high)
        if low == high and piece.has_low:
            pieces.append("{" + low + "}")
        else:
            pieces.append(f"{'[' if piece.has_low else '('}{low}, {high}{']' if piece.has_high else ')'}")
    return " U ".join(pieces) or "{}"


def _ratio(ratio: Ratio) -> str:
    if ratio.clock and (ratio.half or ratio.is_spelled):
        hours, minutes, _ = ratio.clock
        return f"{hours}:{minutes:02} {ratio.half}".strip()
    if ratio.clock:
        hours, *rest = ratio.clock
        return ":".join([str(hours), *(f"{part:02}" for part in rest[: len(ratio.parts) - 1])])
    return ":".join(node_text(part) for part in ratio.parts)


def node_text(node: Node) -> str:
    """An expression as text: multiplied out where it is small, otherwise as it is written."""
    try:
        value = exact(node)
        text = _fraction(value) if value is not None else normal_form(node)
    except UndefinedError:
        text = None
    return text or _as_written(node)


def _fraction(value: Fraction) -> str:
    return str(value)


def _as_written(node: Node) -> str:
    if isinstance(node, Number):
        return _fraction(node.value)
    if isinstance(node, Symbol):
        return node.name
    return _applied(node)


def _applied(node: Apply) -> str:
    parts = [_as_written(argument) for argument in node.arguments]
    if node.function in _BINARY:
        return f"({parts[0]}{_BINARY[node.function]}{parts[1]})"
    if node.function == "add":
        return "(" + " + ".join(parts) + ")"
    if node.function == "neg":
        return f"-{parts[0]}"
    return f"{node.function}({', '.join(parts)})"

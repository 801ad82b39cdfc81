"""Unions of intervals: put in order, intersected, and taken apart."""

from dataclasses import replace
from functools import cmp_to_key
from typing import Any

from treepo.verify.expressions.answers import Piece
from treepo.verify.expressions.equality import PRECISION
from treepo.verify.expressions.nodes import INFINITY, Apply, Node, negated, symbols
from treepo.verify.expressions.numeric import Evaluation, UndefinedError, exact

MINUS_INFINITY = negated(INFINITY)
ALL = (Piece(MINUS_INFINITY, INFINITY, False, False),)

Pieces = tuple[Piece, ...]


def infinity_sign(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, 0 for all else."""
    if node == INFINITY:
        return 1
    return -1 if isinstance(node, Apply) and node.function == "neg" and node.arguments[0] == INFINITY else 0


class Order:
    """Compares the ends of intervals, which are real numbers or infinite; raises UndefinedError for others."""

    def __init__(self) -> None:
        self.evaluation = Evaluation(PRECISION, 0)

    def sign(self, first: Node, second: Node) -> int:
        """-1, 0 or 1, as the first is smaller, equal or larger."""
        infinite = infinity_sign(first), infinity_sign(second)
        if first == second:
            return 0
        if any(infinite):
            return (infinite[0] > infinite[1]) - (infinite[0] < infinite[1])
        rational = exact(first), exact(second)
        if rational[0] is not None and rational[1] is not None:
            return (rational[0] > rational[1]) - (rational[0] < rational[1])
        left, right = self._value(first), self._value(second)
        difference = left[0] - right[0]
        if self.evaluation.magnitude(difference) <= max(left[1], right[1]) + 2:
            return 0
        return 1 if difference > 0 else -1

    def _value(self, node: Node) -> tuple[Any, int]:
        value, error = self.evaluation.value(node)
        if symbols(node) or self.evaluation.magnitude(value.imag) > error + 1:
            raise UndefinedError("no real number")
        return value.real, error


def united(pieces: Pieces) -> Pieces:
    """The same set of numbers in order, from intervals that neither overlap nor touch; as given if that fails."""
    order = Order()

    def by_low(first: Piece, second: Piece) -> int:
        return order.sign(first.low, second.low) or second.has_low - first.has_low

    try:
        sorted_pieces = sorted((p for p in pieces if not _is_empty(p, order)), key=cmp_to_key(by_low))
        merged: list[Piece] = []
        for piece in sorted_pieces:
            last = merged[-1] if merged else None
            touch = order.sign(piece.low, last.high) if last else 1
            if last is None or touch > 0 or (touch == 0 and not (piece.has_low or last.has_high)):
                merged.append(piece)
                continue
            farther = order.sign(piece.high, last.high)
            if farther > 0:
                merged[-1] = replace(last, high=piece.high, has_high=piece.has_high)
            elif farther == 0:
                merged[-1] = replace(last, has_high=piece.has_high or last.has_high)
    except UndefinedError:
        return pieces
    return tuple(merged)


def _is_empty(piece: Piece, order: Order) -> bool:
    sign = order.sign(piece.low, piece.high)
    return sign > 0 or (sign == 0 and not (piece.has_low and piece.has_high))


def intersected(first: Pieces, second: Pieces) -> Pieces:
    """The numbers in both; raises UndefinedError for ends that cannot be ordered."""
    order = Order()
    found = []
    for one in first:
        for other in second:
            low, high = order.sign(one.low, other.low), order.sign(one.high, other.high)
            found.append(
                Piece(
                    one.low if low >= 0 else other.low,
                    one.high if high <= 0 else other.high,
                    one.has_low and other.has_low if low == 0 else (one if low > 0 else other).has_low,
                    one.has_high and other.has_high if high == 0 else (one if high < 0 else other).has_high,
                )
            )
    return united(tuple(piece for piece in found if not _is_empty(piece, order)))


def complement(pieces: Pieces) -> Pieces:
    """The real numbers outside."""
    outside, low, has_low = [], MINUS_INFINITY, False
    for piece in united(pieces):
        if not (low == piece.low and infinity_sign(low)):
            outside.append(Piece(low, piece.low, has_low, not piece.has_low and not infinity_sign(piece.low)))
        low, has_low = piece.high, not piece.has_high
    if infinity_sign(low) <= 0:
        outside.append(Piece(low, INFINITY, has_low, False))
    return united(tuple(outside))


def single(node: Node) -> Piece:
    """The set of one number."""
    return Piece(node, node, True, True)

"""What an answer can be."""

from dataclasses import dataclass
from typing import Literal

from treepo.verify.expressions.nodes import Node
from treepo.verify.expressions.units import Unit


@dataclass(frozen=True)
class Value:
    """A number or an expression, perhaps with a unit.

    is_compound: given in several units, 1 hour 30 minutes, and here in the first of them. product: the other reading of
    "5 m", a product.
    """

    node: Node
    unit: Unit | None = None
    is_compound: bool = False
    product: Node | None = None
    note: str = ""
    """Words behind the unit: 5 miles north."""


@dataclass(frozen=True)
class Text:
    """Words."""

    text: str


@dataclass(frozen=True)
class Items:
    """Several answers: a list without brackets, a set, or an ordered tuple.

    kind: the brackets; "(" and "[" of two numbers may be intervals. labels: the name of each element in x=1, y=2; empty
    without names.
    """

    elements: tuple["Answer", ...]
    kind: Literal["list", "set", "(", "[", "<"] = "list"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """An interval; a single number is one that is closed on both sides."""

    low: Node
    high: Node
    has_low: bool
    has_high: bool


@dataclass(frozen=True)
class Relation:
    r"""An equation or inequality: the difference of its sides is =, <, \le or \ne 0."""

    difference: Node
    sign: str


@dataclass(frozen=True)
class Intervals:
    """A union of intervals, in order where their ends can be ordered.

    variable: the letter that lies in it, if there is one. relation: the inequality that it was written as.
    """

    pieces: tuple[Piece, ...]
    variable: str = ""
    relation: Relation | None = None


@dataclass(frozen=True)
class Labelled:
    """An answer with a name before it: x = 5. relation: the same as an equation, where the name is a letter."""

    label: str
    answer: "Answer"
    relation: Relation | None = None


@dataclass(frozen=True)
class Matrix:
    """Rows of expressions."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Ratio:
    """Numbers with colons between them. clock: the same as hours, minutes and seconds, if it can be a time of day.

    half: am, pm, or empty. is_spelled: written with a.m. or p.m. and without a colon.
    """

    parts: tuple[Node, ...]
    clock: tuple[int, int, int] | None = None
    half: str = ""
    is_spelled: bool = False


@dataclass(frozen=True)
class Based:
    """Digits in a base, as written."""

    digits: str
    base: int


@dataclass(frozen=True)
class Choice:
    """An option with its letter: (B) 12."""

    letter: str
    answer: "Answer"


Answer = Value | Text | Items | Intervals | Relation | Labelled | Matrix | Ratio | Based | Choice

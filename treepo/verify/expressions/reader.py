"""Reads a whole answer: lists, brackets, sets, relations, and what is in them. Nothing is dropped."""

from collections.abc import Sequence
from dataclasses import replace

from treepo.verify.expressions.answers import (
    Answer,
    Choice,
    Intervals,
    Items,
    Labelled,
    Matrix,
    Piece,
    Text,
    Value,
)
from treepo.verify.expressions.compare import as_intervals
from treepo.verify.expressions.equality import MIN_DIGITS
from treepo.verify.expressions.labels import change_of_depth, label_of, split_at
from treepo.verify.expressions.lists import assembled
from treepo.verify.expressions.nodes import Number
from treepo.verify.expressions.numeric import UndefinedError, exact
from treepo.verify.expressions.parser import parse
from treepo.verify.expressions.phrases import based_of, behind_all_real, choice_of, text_of, without_prefix
from treepo.verify.expressions.quantities import read_value
from treepo.verify.expressions.relations import RELATION_SIGNS, read_relation, split_relation
from treepo.verify.expressions.sets import ALL, complement, intersected, single, united
from treepo.verify.expressions.text import MAX_DEPTH, UnreadableError, check_depth, normalised
from treepo.verify.expressions.times import read_ratio
from treepo.verify.expressions.tokens import COMMAND, NUMBER, SIGN, WORD, Token, tokenised

_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "{": "}"}
_SET_SIGNS = {"\\cup", "\\cap", "\\setminus"}
_MATRICES = {"pmatrix", "bmatrix", "matrix", "Bmatrix", "array", "smallmatrix"}
DOTS = Text("...")
"""What stands for elements that are not written."""

MAX_TOKENS = 600
MAX_SHOWN = 10**30
"""Rational numbers below it are shown as their value."""
MAX_SETS = 8
"""Sets with signs of intersection and difference between them."""


def read(text: str) -> Answer:
    """The answer that the whole text is; raises UnreadableError, or UndefinedError for a division by zero."""
    plain = normalised(text)
    check_depth(plain)
    tokens = without_prefix(tokenised(plain))
    if len(tokens) > MAX_TOKENS:
        raise UnreadableError("too many signs")
    return _Reader().answer(tokens)


def spelling(text: str) -> str:
    """The text in one spelling: without signs that only say how it looks, and without punctuation around it.

    For answers that cannot be read: the same spelling is the same answer.
    """
    try:
        tokens = _stripped(tokenised(normalised(text)))
    except UnreadableError:
        return " ".join(text.split())
    return " ".join(token.text.lower() if token.kind == WORD else token.text for token in tokens)


def plain_text(text: str, answer: Answer | None) -> str:
    """An answer as it is shown, and read again: a rational number as 1/2, anything else as it was written."""
    if isinstance(answer, Value) and answer == Value(answer.node):
        is_decimal = isinstance(answer.node, Number) and answer.node.num_digits >= MIN_DIGITS
        try:
            value = None if is_decimal else exact(answer.node)
        except UndefinedError:
            value = None
        if value is not None and max(abs(value.numerator), value.denominator) < MAX_SHOWN:
            return str(value)
    try:
        return normalised(text).strip(" ,;:").removesuffix(".")
    except UnreadableError:
        return " ".join(text.split())


class _Reader:
    """Reads answers within answers, to a bounded depth."""

    def __init__(self) -> None:
        self.depth = 0

    def answer(self, tokens: Sequence[Token]) -> Answer:
        """One answer or a list of them."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")
        answer = self._answer(_stripped(tokens))
        self.depth -= 1
        return answer

    def _answer(self, tokens: Sequence[Token]) -> Answer:
        if not tokens:
            raise UnreadableError("nothing")
        if len(parts := split_at(tokens, ";")) > 1:
            return assembled([self.answer(part) for part in parts], {";"})
        known = text_of(tokens, only_known=True)
        if known is not None:
            return known
        if (choice := choice_of(tokens)) is not None:
            return Choice(choice[0], self.answer(choice[1]))
        if (excluded := behind_all_real(tokens)) is not None:
            return Intervals(complement(self._points(self.answer(excluded))))
        parts, signs = _split_list(tokens)
        if not parts:
            raise UnreadableError("nothing between separators")
        if len(parts) > 1:
            return assembled([answer for part in parts for answer in self.items(part)], signs)
        found = self.items(parts[0])
        return found[0] if len(found) == 1 else assembled(found, {"or"})

    def items(self, tokens: Sequence[Token]) -> list[Answer]:
        """One answer, or the two that plus or minus makes of it."""
        tokens = _stripped(tokens)
        if _has_sign_outside_of_sets(tokens):
            return [self.item([_with_sign(token, is_upper) for token in tokens]) for is_upper in (True, False)]
        return [self.item(tokens)]

    def item(self, tokens: Sequence[Token]) -> Answer:
        """One answer."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")
        answer = self._item(_stripped(tokens))
        self.depth -= 1
        return answer

    def _item(self, tokens: Sequence[Token]) -> Answer:
        if not tokens:
            raise UnreadableError("nothing")
        if [token.text for token in tokens] == ["\\ldots"]:
            return DOTS
        text = text_of(tokens)
        if text is not None:
            return text
        parts, signs = split_relation(tokens)
        if signs:
            return read_relation(parts, signs, self.item)
        if (answer := self._set(tokens)) is not None:
            return answer
        if (answer := self._with_colon(tokens)) is not None:
            return answer
        if (answer := self._brackets(tokens)) is not None:
            return answer
        return self._matrix(tokens) or based_of(tokens) or read_value(tokens)

    def _with_colon(self, tokens: Sequence[Token]) -> Answer | None:
        """A ratio, a time of day, or words before a colon; None without a colon and without a word at the end."""
        if tokens[-1].kind != WORD and not any(token.text in {":", "to"} for token in tokens):
            return None
        tokens = [Token(SIGN, ":") if token.kind == WORD and token.text == "to" else token for token in tokens]
        parts = split_at(tokens, ":")
        if len(parts) == 2 and parts[0] and parts[1] and parts[0][0].kind != NUMBER:
            label = label_of(parts[0])
            if label is not None and parts[0][0].kind == WORD:
                return Labelled(label, self.item(parts[1]))
        return read_ratio(tokens)

    def _set(self, tokens: Sequence[Token]) -> Answer | None:
        """Sets with signs of union, intersection and difference between them; None without such signs."""
        marked = _with_unions(tokens)
        depth, start, signs = 0, 0, []
        operands: list[Sequence[Token]] = []
        for at, token in enumerate(marked):
            depth += change_of_depth(token)
            if depth == 0 and token.text in _SET_SIGNS and token.kind == COMMAND:
                operands.append(marked[start:at])
                signs.append(token.text)
                start = at + 1
        if not signs:
            return Intervals(ALL) if [token.text for token in tokens] == ["\\R"] else _empty(tokens)
        operands.append(marked[start:])
        sets = [self._operand(operand).pieces for operand in operands]
        if set(signs) == {"\\cup"}:
            return Intervals(united(tuple(piece for pieces in sets for piece in pieces)))
        if len(sets) > MAX_SETS:
            raise UnreadableError("too many sets")
        pieces = sets[0]
        for sign, other in zip(signs, sets[1:], strict=True):
            if sign == "\\cup":
                pieces = united(pieces + other)
            else:
                pieces = intersected(pieces, other if sign == "\\cap" else complement(other))
        return Intervals(pieces)

    def _points(self, answer: Answer) -> tuple[Piece, ...]:
        """Numbers that are left out of a set."""
        values = [e for e in (answer.elements if isinstance(answer, Items) else [answer]) if isinstance(e, Value)]
        if not values or (isinstance(answer, Items) and len(values) < len(answer.elements)):
            raise UnreadableError("no numbers")
        return tuple(single(value.node) for value in values)

    def _operand(self, tokens: Sequence[Token]) -> Intervals:
        answer = self.item(tokens)
        found = as_intervals(answer) if isinstance(answer, Items) else answer
        if not isinstance(found, Intervals):
            raise UnreadableError("no set")
        return found

    def _brackets(self, tokens: Sequence[Token]) -> Answer | None:
        """What is in brackets that begin and end the tokens; None if there are none."""
        opening, closing = tokens[0].text, tokens[-1].text
        if opening not in _CLOSING or tokens[0].kind == NUMBER or _end_of_bracket(tokens) != len(tokens) - 1:
            return None
        inside = tokens[1:-1]
        if {opening, closing} <= {"(", "[", "]", ")"} and _CLOSING[opening] != closing:
            return self._half_open(inside, opening, closing)
        if _CLOSING[opening] != closing:
            raise UnreadableError("brackets do not match")
        if opening == "\\{":
            return self._braces(inside)
        parts = [part for separator in (";", ",") for part in [split_at(inside, separator)] if len(part) > 1]
        if not parts:
            return self._one_in_brackets(inside)
        elements = tuple(self.item(part) for part in parts[0])
        kind = "(" if opening == "(" else "[" if opening == "[" else "<"
        return Items(elements, kind)

    def _one_in_brackets(self, inside: Sequence[Token]) -> Answer | None:
        answer = self.answer(inside)
        return (
            answer if not isinstance(answer, Items) else replace(answer, kind="(") if answer.kind == "list" else answer
        )

    def _half_open(self, inside: Sequence[Token], opening: str, closing: str) -> Answer:
        parts = split_at(inside, ";") if any(token.text == ";" for token in inside) else split_at(inside, ",")
        if len(parts) != 2:
            raise UnreadableError("an interval has two ends")
        ends = [self.item(part) for part in parts]
        nodes = [end.node for end in ends if isinstance(end, Value) and end.unit is None]
        if len(nodes) != 2:
            raise UnreadableError("an interval has two numbers as ends")
        return Intervals((Piece(nodes[0], nodes[1], opening == "[", closing == "]"),))

    def _braces(self, inside: Sequence[Token]) -> Answer:
        """A set, by its elements or by a condition."""
        if not inside:
            return Intervals(())
        for sign in ("|", ":"):
            head, *rest = split_at(inside, sign)
            if len(rest) >= 1 and (name := _name_of_element(head)) is not None:
                condition = inside[len(head) + 1 :]
                return self._by_condition(name, condition)
        separator = ";" if any(token.text == ";" for token in inside) else ","
        parts = split_at(inside, separator)
        found = [answer for part in parts for answer in self.items(part)]
        return Items(tuple(dict.fromkeys(found)), "set")

    def _by_condition(self, name: str, condition: Sequence[Token]) -> Answer:
        answer = self.answer(condition)
        if isinstance(answer, Intervals) and answer.variable in {"", name}:
            return Intervals(answer.pieces)
        raise UnreadableError("a condition that is no interval")

    def _matrix(self, tokens: Sequence[Token]) -> Answer | None:
        if tokens[0].text != "\\begin" or tokens[-2].text != "\\end":
            return None
        if tokens[1].text not in _MATRICES or tokens[1].text != tokens[-1].text:
            raise UnreadableError("an environment that is not read")
        body = tokens[2:-2]
        if any(token.text == "\\begin" for token in body):
            raise UnreadableError("a matrix in a matrix")
        rows = [row for row in split_at(body, "\\\\") if row]
        return Matrix(tuple(tuple(parse(cell) for cell in split_at(row, "&")) for row in rows))


def _has_sign_outside_of_sets(tokens: Sequence[Token]) -> bool:
    r"""Whether there is a \pm that is not in braces, where each element has its own."""
    depth = 0
    for token in tokens:
        depth += (token.text == "\\{") - (token.text == "\\}")
        if depth == 0 and token.kind == COMMAND and token.text in {"\\pm", "\\mp"}:
            return True
    return False


def _with_sign(token: Token, is_upper: bool) -> Token:
    r"""The token, or + or - for \pm and \mp."""
    if token.kind != COMMAND or token.text not in {"\\pm", "\\mp"}:
        return token
    return Token(SIGN, "+" if is_upper == (token.text == "\\pm") else "-", token.spaced)


def _stripped(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without punctuation around, and without braces around all."""
    while tokens:
        if tokens[-1].text in {".", ",", ";", ":", '"', "\\quad", "\\\\"} and tokens[-1].kind != NUMBER:
            tokens = tokens[:-1]
        elif tokens[0].text in {"\\quad", ":", "&", '"'}:
            tokens = tokens[1:]
        elif tokens[0].text == "{" and tokens[-1].text == "}" and _end_of_bracket(tokens) == len(tokens) - 1:
            tokens = tokens[1:-1]
        else:
            break
    return tokens


def _end_of_bracket(tokens: Sequence[Token]) -> int:
    depth = 0
    for at, token in enumerate(tokens):
        depth += change_of_depth(token)
        if depth == 0:
            return at
    raise UnreadableError("brackets do not match")


def _split_list(tokens: Sequence[Token]) -> tuple[list[Sequence[Token]], set[str]]:
    """The parts of a list and what separates them: commas, "and", "or", and wide blanks between mathematics."""
    parts: list[Sequence[Token]] = []
    signs: set[str] = set()
    depth = start = 0
    last = "start"
    for at, token in enumerate([*tokens, Token(SIGN, "end")]):
        depth += change_of_depth(token)
        sign = "end" if at == len(tokens) else _separator(tokens, at) if depth == 0 else ""
        if not sign:
            continue
        part = tokens[start:at]
        start = at + 1
        if part:
            parts.append(part)
        elif "," in {last, sign} and {last, sign} <= {",", "end", "start"}:
            raise UnreadableError("an element is missing")
        signs |= {sign} - {"end"}
        last = sign
    return parts, signs


def _separator(tokens: Sequence[Token], at: int) -> str:
    token = tokens[at]
    if token.kind == SIGN and token.text == ",":
        return ","
    if token.kind == WORD and token.text.lower() in {"and", "or"}:
        return token.text.lower()
    is_logic = token.text in {"\\wedge", "\\vee"} and any(other.text in RELATION_SIGNS for other in tokens)
    if token.kind in {COMMAND, SIGN} and (token.text in {"&", "\\and"} or is_logic):
        return "or" if token.text == "\\vee" else "and"
    if token.text == "\\quad" and 0 < at < len(tokens) - 1:
        before, behind = tokens[at - 1], tokens[at + 1]
        is_text = behind.kind == WORD and behind.text.lower() not in {"and", "or"}
        return "" if is_text or before.kind == WORD or behind.text in {",", "\\quad"} else "quad"
    return ""


def _empty(tokens: Sequence[Token]) -> Intervals | None:
    return Intervals(()) if [token.text for token in tokens] == ["\\emptyset"] else None


def _with_unions(tokens: Sequence[Token]) -> Sequence[Token]:
    r"""Tokens with \cup for a letter U between brackets."""
    closing, opening = {")", "]", "\\}"}, {"(", "[", "\\{"}
    return [
        Token(COMMAND, "\\cup")
        if token.text == "U"
        and 0 < at < len(tokens) - 1
        and tokens[at - 1].text in closing
        and tokens[at + 1].text in opening
        else token
        for at, token in enumerate(tokens)
    ]


def _name_of_element(tokens: Sequence[Token]) -> str | None:
    r"""The name in {x | ...} and {x \in \R | ...}."""
    name, *sets = split_at(tokens, "\\in")
    if len(sets) > 1 or (sets and [token.text for token in sets[0]] != ["\\R"]):
        return None
    return label_of(name)

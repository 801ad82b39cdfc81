r"""Numbers as they are written: decimals, repeating ones, and mixed numbers such as 1 1/4 and 1\frac14."""

from fractions import Fraction

from treepo.verify.expressions.cursor import Cursor
from treepo.verify.expressions.nodes import Node, Number, number
from treepo.verify.expressions.tokens import NUMBER, Token

_REPEATING = ("\\overline", "\\bar", "\\dot")


def read_number(cursor: Cursor, token: Token, after_slash: bool) -> Node:
    """The number of a token that has been passed over, with what belongs to it; raises UnreadableError.

    after_slash: whether it is the bottom of a fraction a/b, which no mixed number may be.
    """
    if not token.text.isdecimal() or (cursor.peek().text == "." and cursor.peek(1).text in _REPEATING):
        return _repeating(cursor, token)
    start = cursor.at
    fraction = _plain_quotient(cursor)
    is_plain = fraction is not None
    fraction = fraction or _plain_fraction(cursor)
    if fraction is None:
        return number(token.text)
    top, bottom = fraction
    is_proper = 0 < top < bottom and cursor.peek().text not in {"^", "!", "/"} and not after_slash
    if is_proper:
        return Number(int(token.text) + Fraction(top, bottom))
    if is_plain or cursor.peek().text != "^":
        cursor.fail("no mixed number")
    # 3\frac12^2 is a product.
    cursor.at = start
    return number(token.text)


def _plain_quotient(cursor: Cursor) -> tuple[int, int] | None:
    """Two whole numbers with a slash between them."""
    top, slash, bottom = (cursor.peek(ahead) for ahead in range(3))
    if slash.text != "/" or not (_is_whole(top) and _is_whole(bottom)):
        return None
    cursor.at += 3
    return int(top.text), int(bottom.text)


def _plain_fraction(cursor: Cursor) -> tuple[int, int] | None:
    r"""The whole numbers of a \frac of two of them."""
    if cursor.peek().text != "\\frac":
        return None
    start = cursor.at
    cursor.at += 1
    numbers: list[int] = []
    while len(numbers) < 2 and cursor.peek().text:
        has_braces = cursor.take("{")
        token = cursor.next()
        if not _is_whole(token) or (has_braces and not cursor.take("}")):
            break
        if not has_braces and len(token.text) + len(numbers) == 2:
            numbers += map(int, token.text)
        elif has_braces or len(token.text) == 1:
            numbers.append(int(token.text))
        else:
            break
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    cursor.at = start
    return None


def _is_whole(token: Token) -> bool:
    return token.kind == NUMBER and token.text.isdecimal()


def _repeating(cursor: Cursor, token: Token) -> Node:
    r"""0.1\overline{6}, 0.\overline{3} and 0.333\ldots, or a plain decimal."""
    has_point = cursor.peek().text == "." and cursor.peek(1).text in _REPEATING
    if "e" in token.text.lower():
        return number(token.text)
    if cursor.peek().text == "\\ldots":
        return _dotted(cursor, token.text)
    cursor.at += has_point
    if not cursor.take(*_REPEATING):
        return number(token.text)
    digits = cursor.raw_group()
    if not digits.isdecimal():
        cursor.fail("what repeats is no digits")
    places = len(token.text.partition(".")[2])
    tail = Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
    return Number(Fraction(token.text) + tail)


def _dotted(cursor: Cursor, text: str) -> Node:
    """A decimal that ends in dots repeats its last digit, if that is there three times."""
    digits = text.partition(".")[2]
    if len(digits) < 3 or len(set(digits[-3:])) > 1:
        cursor.fail("dots behind digits that do not repeat")
    cursor.at += 1
    return Number(Fraction(text) + Fraction(int(digits[-1]), 9 * 10 ** len(digits)))

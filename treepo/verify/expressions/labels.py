"""Names before an equals sign: x, f(2), AB, \\angle ABC, Area; a+b and \\sin x are none."""

from collections.abc import Sequence

from treepo.verify.expressions.tokens import COMMAND, LETTER, NUMBER, WORD, Token
from treepo.verify.expressions.words import FUNCTIONS

WORDS = "words"
"""The label of an answer that has words before it; they say nothing about which letter is meant."""

_DECORATED = {"\\overline", "\\bar", "\\vec", "\\hat", "\\tilde", "\\dot", "\\angle", "\\triangle", "\\measuredangle"}
_LARGE = {"\\sum", "\\prod", "\\int", "\\lim", "\\min", "\\max", "\\gcd", "\\lcm", "\\inf", "\\sup", "\\det"}
_VARIABLES = set("abcijklmnostuvwxyz")
"""Letters that multiply a bracket behind them; others name a function of it."""


def label_of(tokens: Sequence[Token]) -> str | None:
    """The name that all the tokens are, in one spelling; None if they are none."""
    if not tokens:
        return None
    texts = [token.text for token in tokens]
    if tokens[0].kind == WORD and tokens[0].text not in FUNCTIONS and (tokens[0].upright or len(tokens[0].text) > 3):
        is_prose = all(t.kind in {WORD, LETTER} or t.text in {"(", ")", "-", "'", "of", "{", "}"} for t in tokens)
        return WORDS if is_prose or tokens[0].upright else None
    is_name = (
        _is_letter(tokens)
        or _is_function(tokens)
        or _is_segment(tokens)
        or _is_tuple(tokens)
        or _is_ratio(tokens)
        or _is_derivative(texts)
        or (
            texts[0] in _DECORATED
            and all(t.kind in {LETTER, NUMBER} or t.text in {"{", "}", "'", "_"} for t in tokens[1:])
        )
        or (texts[0] == "\\Delta" and _is_letter(tokens[1:]))
        or (texts[:2] == ["m", "\\angle"] and label_of(tokens[1:]) is not None)
        or (texts[0] in _LARGE and len(tokens) > 1)
    )
    return "".join(text for text in texts if text not in {"{", "}"}) if is_name else None


def _is_letter(tokens: Sequence[Token]) -> bool:
    """A letter, perhaps with a subscript and primes."""
    if not tokens:
        return False
    if tokens[0].kind != LETTER or tokens[0].text in {"e", "i"}:
        return False
    rest = list(tokens[1:])
    while rest and rest[-1].text == "'":
        rest.pop()
    if not rest:
        return True
    if rest[0].text != "_":
        return False
    group = rest[1:]
    if len(group) > 2 and group[0].text == "{" and group[-1].text == "}":
        group = group[1:-1]
        return all(token.text not in {"{", "}"} for token in group)
    return len(group) == 1


def _is_function(tokens: Sequence[Token]) -> bool:
    """f(2), P(A), f^{-1}(x), E[X]: a letter for functions with one bracket behind it."""
    closing = {"(": ")", "[": "]"}
    start = next((at for at, token in enumerate(tokens) if token.text in closing), 0)
    if not start or tokens[-1].text != closing[tokens[start].text]:
        return False
    depth = 0
    for at in range(start, len(tokens)):
        depth += (tokens[at].text in {"(", "["}) - (tokens[at].text in {")", "]"})
        if depth == 0 and at < len(tokens) - 1:
            return False
    head = list(tokens[:start])
    inside = tokens[start + 1 : -1]
    if [token.text for token in head[1:]] in (["^", "{", "-", "1", "}"], ["^", "-", "1"]):
        head = head[:1]
    if head[0].kind == COMMAND and len(head) == 1 and head[0].text in {"\\P", "\\E", "\\Pr"}:
        return True
    is_number = all(token.kind == NUMBER or token.text in {"-", ","} for token in inside)
    is_named = head[0].text not in _VARIABLES or len(head) > 1 or (len(inside) == 1 and inside[0].kind == LETTER)
    return bool(inside) and _is_letter(head) and (is_named or is_number)


def _is_segment(tokens: Sequence[Token]) -> bool:
    """AB, |AB|, [ABC], S_{ABC}, AB': capital letters that name points."""
    inner = list(tokens)
    if len(inner) > 2 and (inner[0].text, inner[-1].text) in {("|", "|"), ("[", "]"), ("\\Vert", "\\Vert")}:
        inner = inner[1:-1]
        if inner[0].text in _DECORATED:
            return True
    points = [token for token in inner if token.text != "'"]
    return len(points) >= 2 and all(t.kind == LETTER and t.text.isupper() and len(t.text) == 1 for t in points)


def _is_tuple(tokens: Sequence[Token]) -> bool:
    """(x, y): names in round brackets."""
    if len(tokens) < 5 or (tokens[0].text, tokens[-1].text) != ("(", ")"):
        return False
    parts = split_at(tokens[1:-1], ",")
    return len(parts) > 1 and all(part and (_is_letter(part) or _is_function(part)) for part in parts)


def _is_ratio(tokens: Sequence[Token]) -> bool:
    r"""A:B, or \frac{AB}{CD} of segments."""
    parts = split_at(tokens, ":")
    if len(parts) > 1:
        return all(part and label_of(part) is not None for part in parts)
    if tokens[0].text == "\\frac" and len(tokens) > 6 and tokens[1].text == "{" and tokens[-1].text == "}":
        middle = next((at for at, token in enumerate(tokens) if token.text == "}"), 0)
        top, bottom = tokens[2:middle], tokens[middle + 2 : -1]
        return bool(top and bottom) and tokens[middle + 1].text == "{" and _is_segment(top) and _is_segment(bottom)
    return False


def _is_derivative(texts: Sequence[str]) -> bool:
    r"""\frac{dy}{dx}, dy/dx."""
    plain = [text for text in texts if text not in {"{", "}", "\\frac", "/"}]
    return len(plain) == 4 and plain[0] == plain[2] and plain[0] in {"d", "\\partial"} and len(texts) > 4


def split_at(tokens: Sequence[Token], *signs: str) -> list[Sequence[Token]]:
    """The tokens between these signs, outside of all brackets."""
    parts, start, depth = [], 0, 0
    for at, token in enumerate(tokens):
        depth += change_of_depth(token)
        if depth == 0 and token.text in signs and token.kind != NUMBER:
            parts.append(tokens[start:at])
            start = at + 1
    return [*parts, tokens[start:]]


_OPENING = {"(", "[", "{", "\\{", "\\langle", "\\begin", "\\lfloor", "\\lceil"}
_CLOSING = {")", "]", "}", "\\}", "\\rangle", "\\end", "\\rfloor", "\\rceil"}


def change_of_depth(token: Token) -> int:
    """1 for an opening bracket, -1 for a closing one, 0 for others."""
    return (token.text in _OPENING) - (token.text in _CLOSING)

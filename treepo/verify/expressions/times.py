"""Ratios, and times of day: 2:3, 10:30 a.m., noon."""

from collections.abc import Sequence

from treepo.verify.expressions.answers import Ratio
from treepo.verify.expressions.labels import split_at
from treepo.verify.expressions.nodes import number
from treepo.verify.expressions.parser import parse
from treepo.verify.expressions.text import UnreadableError
from treepo.verify.expressions.tokens import NUMBER, WORD, Token


def read_ratio(tokens: Sequence[Token]) -> Ratio | None:
    """Numbers with colons between them, or a time of day; None for anything else."""
    half = ""
    words = [token.text.lower() for token in tokens if token.kind == WORD]
    body = list(tokens)
    if words and words[-1] in {"am", "pm", "oclock"} and body[-1].kind == WORD:
        half = words[-1].replace("oclock", "")
        body.pop()
    parts = split_at(body, ":")
    if len(parts) == 1:
        return _spelled_time(tokens, body, half)
    if any(not part for part in parts):
        raise UnreadableError("a colon without a number")
    nodes = tuple(parse(part) for part in parts)
    digits = [part[0].text for part in parts if len(part) == 1 and part[0].kind == NUMBER and part[0].text.isdecimal()]
    clock = _clock(digits) if len(digits) == len(parts) <= 3 else None
    if half and clock is None:
        raise UnreadableError("no time of day")
    return Ratio(nodes, clock, half)


def _spelled_time(tokens: Sequence[Token], body: Sequence[Token], half: str) -> Ratio | None:
    if len(tokens) == 1 and tokens[0].text.lower() in {"noon", "midnight"}:
        return Ratio((), (12, 0, 0), "pm" if tokens[0].text.lower() == "noon" else "am", is_spelled=True)
    if len(body) == len(tokens) or len(body) != 1 or body[0].kind != NUMBER or not body[0].text.isdecimal():
        return None
    return Ratio((number(body[0].text),), (int(body[0].text[:4]), 0, 0), half, is_spelled=True)


def _clock(digits: Sequence[str]) -> tuple[int, int, int] | None:
    if any(len(part) != 2 for part in digits[1:]) or len(digits[0]) > 2:
        return None
    hours, minutes, seconds = (*map(int, digits), 0)[:3]
    return (hours, minutes, seconds) if hours <= 24 and minutes < 60 and seconds < 60 else None

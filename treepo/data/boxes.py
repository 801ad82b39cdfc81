r"""Answers in boxes: \boxed{42}, \fbox{42}, and \boxed 42 without braces."""

import re
from typing import NamedTuple


class Box(NamedTuple):
    """Where the content of a box begins and ends, and the index just past the box."""

    start: int
    end: int
    close: int


_OPENING = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*|\\.", re.DOTALL)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_ATOM = r"(?:\.?[0-9]|\\[A-Za-z{]|[A-Za-z](?![A-Za-z])|[\u221a\u221e\u03c0\u00bc-\u00be\u2150-\u215e])"
_SIGN = re.compile(r"[-+\u2212\u2013\u00b1]?\s?")
_UNBRACED = re.compile(rf"{_SIGN.pattern}(?:{_ATOM}|[(\[]\s?{_SIGN.pattern}{_ATOM})")
r"""How the content of a box without braces may begin: `\boxed notation` and `\boxed.` only talk about boxes."""

_PARTS = re.compile(r"\\[A-Za-z]+(?:\s+(?=[{0-9\\]))?|\\.|.", re.DOTALL)


def find_last_box(text: str, ended: bool = True) -> Box | None:
    r"""The last box of the text, or None if there is none or if the last one is never closed.

    Braces nest; escaped ones do not count. Of boxes within a box, the innermost that opens last is returned. Without
    braces a box holds what follows up to white space outside brackets, a dollar sign or a bracket that closes nothing,
    less punctuation at its end. ended: whether nothing follows the text, which completes a box without braces.
    Linear in the length of the text.
    """
    opening = max(_openings(text, ended), default=len(text))
    if opening == len(text):
        return None
    return _braced(text, opening + 1) if text[opening] == "{" else _unbraced(text, opening, ended)


def last_box(text: str) -> str | None:
    r"""The content of the last box, or None; see `find_last_box`."""
    found = find_last_box(text)
    return None if found is None else text[found.start : found.end]


def has_open_box(text: str) -> bool:
    r"""Whether the last box of the text is not closed, so that it may go on."""
    return bool(_openings(text, ended=False)) and find_last_box(text, ended=False) is None


def count_boxes(text: str) -> int:
    r"""How many boxes are opened in the text."""
    return len(_openings(text, ended=True))


def _openings(text: str, ended: bool) -> list[int]:
    r"""The index of each box's brace, or of its content without one; len(text) where \boxed may yet be a box."""
    ends = (mark.end() for mark in _OPENING.finditer(text) if len(mark.group()) > 2)
    return [
        end
        for end in ends
        if (end == len(text) and not ended) or text[end : end + 1] == "{" or _UNBRACED.match(text, end)
    ]


def _braced(text: str, start: int) -> Box | None:
    depth = 1
    for mark in _BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return Box(start, mark.start(), mark.end())
    return None


def _unbraced(text: str, start: int, ended: bool) -> Box | None:
    depth, end, is_complete = 0, len(text), ended
    sign = _SIGN.match(text, start)
    for part in _PARTS.finditer(text, sign.end() if sign else start):
        piece = part.group()
        is_closing = piece in {"}", ")", "]", "\\}"}
        if piece in {"$", "\\)", "\\]"} or (depth == 0 and (is_closing or piece.isspace())):
            end, is_complete = part.start(), True
            break
        depth += (piece in {"{", "(", "[", "\\{"}) - is_closing
    if not is_complete or depth:
        return None
    return Box(start, start + len(text[start:end].rstrip(".,;:!?")), end)

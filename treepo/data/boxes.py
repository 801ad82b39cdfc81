r"""Answers in \boxed{...}."""

import re

_MARKS = re.compile(r"\\boxed\{|\\.|[{}]")


def find_last_box(text: str) -> tuple[int, int] | None:
    r"""Where the content of the last complete \boxed{...} begins and ends, or None if no box is closed.

    Braces nest; escaped ones do not count. Of boxes within a box, the innermost that opens last is returned.
    """
    open_braces: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for mark in _MARKS.finditer(text):
        match mark.group():
            case "{" | "\\boxed{" as opening:
                open_braces.append((mark.end(), opening != "{"))
            case "}" if open_braces:
                start, is_box = open_braces.pop()
                if is_box and (last is None or start > last[0]):
                    last = (start, mark.start())
    return last


def last_box(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}, or None; see `find_last_box`."""
    found = find_last_box(text)
    return None if found is None else text[slice(*found)]


def has_open_box(text: str) -> bool:
    r"""Whether the last \boxed{ of the text is never closed."""
    start = text.rfind("\\boxed{")
    return start >= 0 and find_last_box(text[start:]) is None


def is_only_box(text: str) -> bool:
    r"""Whether exactly one \boxed{ stands in the text, and it is closed and holds more than blanks."""
    num_opened = sum(mark.group() == "\\boxed{" for mark in _MARKS.finditer(text))
    return num_opened == 1 and bool((last_box(text) or "").strip())

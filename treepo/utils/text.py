"""Text from outside, made safe to print."""

import re
import unicodedata


def sanitize(text: str, *, multiline: bool = False, max_chars: int | None = None, encoding: str = "utf-8") -> str:
    r"""Untrusted text in which nothing can steer what shows it: other characters become escape sequences such as \x1b.

    multiline: keep line breaks, tabs and unusual spaces, as a document needs; otherwise the result is one printable
    line. max_chars: characters of the text that are kept. encoding: what it lacks is escaped too.
    """
    return "".join(c if _is_safe(c, multiline, encoding) else ascii(c)[1:-1] for c in text[:max_chars])


def _is_safe(character: str, multiline: bool, encoding: str) -> bool:
    is_space = multiline and (character in "\n\t" or unicodedata.category(character) == "Zs")
    if not (character.isprintable() or is_space):
        return False
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def replace_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: U+FFFD for each half of a surrogate pair; complete pairs become their character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def error_line(error: BaseException) -> str:
    """The class of an exception and the first line of its message, which may quote what a model wrote."""
    first, *_ = str(error).strip().split("\n")
    return f"{type(error).__name__}: {sanitize(first, max_chars=200)}"


_MARKS = re.compile(r"\\boxed\{|\\.|[{}]")


def last_box(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}, or None if none is closed.

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
    return None if last is None else text[last[0] : last[1]]


def has_open_box(text: str) -> bool:
    r"""Whether the last \boxed{ of the text is never closed."""
    start = text.rfind("\\boxed{")
    return start >= 0 and last_box(text[start:]) is None


def is_only_box(text: str) -> bool:
    r"""Whether exactly one \boxed{ stands in the text, and it is closed and holds more than blanks."""
    num_opened = sum(mark.group() == "\\boxed{" for mark in _MARKS.finditer(text))
    return num_opened == 1 and bool((last_box(text) or "").strip())

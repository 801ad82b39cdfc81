"""Text from outside, made safe to print."""

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

"""Text from outside, made safe to print."""

import math
import unicodedata
from collections.abc import Iterator, Mapping


def sanitize(text: str, *, multiline: bool = False, max_chars: int | None = None, encoding: str = "utf-8") -> str:
    r"""Untrusted text in which nothing can steer what shows it: other characters become escape sequences such as \x1b.

    multiline: keep line breaks, tabs and unusual spaces, as a document needs; otherwise the result is one printable
    line. max_chars: characters of the text that are kept. encoding: what it lacks is escaped too.
    """
    return "".join(c if _is_safe(c, multiline, encoding) else ascii(c)[1:-1] for c in text[:max_chars])


MAX_LINE_CHARS = 480
"""Of a message; whatever it quotes may be of any length."""


def shorten(text: str, max_chars: int = MAX_LINE_CHARS) -> str:
    """The text, or its beginning and its end, which says what to do next, with ... for what lies between."""
    if len(text) <= max_chars:
        return text
    tail = max_chars // 3
    return f"{text[: max_chars - tail - 5]} ... {text[-tail:]}"


def message_line(text: str) -> str:
    """A message as one printable line of at most MAX_LINE_CHARS, whatever it quotes."""
    # Escapes are longer than what they stand for.
    return shorten(sanitize(shorten(text)))


def _is_safe(character: str, multiline: bool, encoding: str) -> bool:
    is_space = multiline and (character in "\n\t" or unicodedata.category(character) == "Zs")
    if not (character.isprintable() or is_space):
        return False
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def is_unicode(value: object) -> bool:
    """Whether all texts in it, also in lists and tables, have an encoding: not so a command line's bytes that are no
    UTF-8, which Python holds as half surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for text in _texts(value) for character in text)


def holds_nul(value: object) -> bool:
    """Whether a text in it, also in lists and tables, holds a null character, which no path and no C library takes."""
    return any("\0" in text for text in _texts(value))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def replace_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: U+FFFD for each half of a surrogate pair; complete pairs become their character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def pluralize(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 step, 1,200 steps. plural: where it is more than an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def error_line(error: BaseException) -> str:
    """The class of an exception and the first line of its message, which may quote what a model wrote."""
    first, *_ = str(error).strip().split("\n")
    return f"{type(error).__name__}: {sanitize(first, max_chars=200)}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03; `?` if not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def words_of(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def table_of(text: str) -> dict[str, str]:
    """What stands for each word: a line has the name, a colon, and the words that stand for it."""
    rows = [line.partition(": ") for line in text.splitlines() if line.strip()]
    return {word: name.strip() for name, _, words in rows for word in words.split()}

"""Numbers as people and models write them."""

import re
from collections import deque
from fractions import Fraction

MOST_DIGITS = 100
"""Characters of a number that is read."""

LARGEST_EXPONENT = 400
"""Of the powers of ten that are read."""

_DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_NUMBER = re.compile(rf"[-+]?{_DECIMAL}(?:\s?/\s?{_DECIMAL})?")
_SPACED = re.compile(r"[-+]?[1-9][0-9]{0,2}(?: [0-9]{3})+(?:\.[0-9]*)?")
_BARE_FRACTION = re.compile(r"\\[dt]?frac\s?([0-9])\s?([0-9])(?![0-9])")
_MIXED = re.compile(r"(?<![0-9.,])([0-9]{1,9})\s?\\[dt]?frac\{([0-9]{1,9})\}\{([0-9]{1,9})\}")
_FRACTION = re.compile(r"(?<![0-9])(?<![0-9]\s)\\[dt]?frac\s?\{([0-9.,]{1,40})\}\s?\{([0-9.,]{1,40})\}")
_POWER = r"10\^(?:\{([-+]?[0-9]{1,9})\}|([0-9]))"
_SCIENTIFIC = re.compile(rf"(?<![0-9.,/])(?<!/\s)([0-9][0-9.,]*)\s?(?:\\times|\\cdot|\u00d7|\*)\s?{_POWER}")
_POWER_OF_TEN = re.compile(rf"(?<![0-9.,}}]){_POWER}")


def read_number(text: str) -> Fraction | None:
    r"""The exact number that the whole text is, or None if it is not one.

    72, -1,234.5, 1 000, .5, 3/4, \frac{3}{4}, 1\frac12, 2e3, 2 \times 10^3. None for more than MOST_DIGITS
    characters, exponents beyond LARGEST_EXPONENT, and division by zero.
    """
    if len(text) > MOST_DIGITS:
        return None
    plain = _rewritten(text.strip())
    if _SPACED.fullmatch(plain):
        plain = plain.replace(" ", "")
    return _value(plain) if _NUMBER.fullmatch(plain) else None


def last_number(text: str) -> Fraction | None:
    """The last number in the text, in linear time; None without one, or if the last is too long, or an exponent.

    A sign right behind a digit, a letter or a closing bracket subtracts and is no part of the number.
    """
    plain = _rewritten(text)
    ends = deque(_NUMBER.finditer(plain), maxlen=1)
    if not ends:
        return None
    found, start = ends[0].group(), ends[0].start()
    if plain.endswith(("^", "^{"), 0, start):
        return None
    if found[0] in "+-" and start > 0 and (plain[start - 1].isalnum() or plain[start - 1] in ")}]"):
        found = found[1:]
    return _value(found)


def _rewritten(text: str) -> str:
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\!", "").replace("\\,", " ")
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)
    # Before fractions are written a/b: 3/4 x 10^3 is not 3/(4 x 10^3).
    text = _SCIENTIFIC.sub(lambda match: f"{match[1]}e{match[2] or match[3]}", text)
    text = _POWER_OF_TEN.sub(lambda match: f"1e{match[1] or match[2]}", text)
    text = _MIXED.sub(lambda match: f"{int(match[1]) * int(match[3]) + int(match[2])}/{match[3]}", text)
    return _FRACTION.sub(r"\1/\2", text)


def _value(number: str) -> Fraction | None:
    """The value of a match of _NUMBER."""
    if len(number) > MOST_DIGITS:
        return None
    top, _, bottom = number.replace(",", "").partition("/")
    parts = [part.strip() for part in (top, bottom or "1")]
    if any(abs(int(part.lower().partition("e")[2] or "0")) > LARGEST_EXPONENT for part in parts):
        return None
    above, below = (Fraction(part) for part in parts)
    return above / below if below else None

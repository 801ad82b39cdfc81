r"""Numbers in text: 72, -1,234.5, 10\,000, 3/4, \frac34, 1 1/4, ½, 2.5 \times 10^3."""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 100
"""Characters of a number that is read."""

MAX_EXPONENT = 400
"""Largest power of ten that is read."""


class Number(NamedTuple):
    """A number as it stands in a text, from `start` to before `end`.

    value: None if it is too long or too large to be read, divides by zero, is ambiguous, or is part of a power.
    is_attached: whether a letter or a subscript's mark stands right before it, as in m2, x_1 and USD72.
    """

    start: int
    end: int
    value: Fraction | None
    is_attached: bool


_GAP = r"(?:\s|\\[,;:! ]|~)"
_COMMA = r"(?:,\\!|\{\\?,\}|[,\uff0c]|\\[,;:! ]|~|['\u2019\u02bc]|[ \u00a0\u2002-\u200a\u202f])"
"""What may stand between thousands, the same in the whole number."""

_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074-\u2079"
_VULGARS = "\u00bc-\u00be\u2150-\u215e"
_START = re.compile(rf"\\[dtc]?frac(?![A-Za-z])|[{_VULGARS}]|[0-9]|(?<![0-9A-Za-z.])\.[0-9]")
_DECIMAL = re.compile(
    rf"(?:[1-9][0-9]{{0,2}}(?P<comma>{_COMMA})[0-9]{{3}}(?:(?P=comma)[0-9]{{3}})*(?![0-9])|[0-9]+)(?P<part>\.[0-9]+)?"
    r"|\.[0-9]+"
)
_PART = r"\s?(?:\{\s?([-+\u2212]?[0-9.,]{1,40})\s?\}|([0-9]))"
_FRAC = re.compile(rf"\\[dtc]?frac{_PART}{_PART}")
_VULGAR = re.compile(f"[{_VULGARS}]")
_DIGITS = r"[-+\u2212]?[0-9]+"
_POWER = re.compile(
    rf"10(?:\s?(?:\^|\*\*)\s?(?:\{{\s?({_DIGITS})\s?\}}|\(({_DIGITS})\)|({_DIGITS}))|([\u207a\u207b]?[{_SUPERSCRIPTS}]+))"
)
_TIMES = re.compile(rf"{_GAP}{{0,2}}(?:\\times|\\cdot|[\u00d7\u00b7\u22c5*xX]){_GAP}{{0,2}}")
_EXPONENT = re.compile(rf"[eE]({_DIGITS})")
_GAPS = re.compile(rf"{_GAP}{{0,2}}")
_TOP_AND_BOTTOM = re.compile(rf"{_GAP}{{1,2}}([0-9]{{1,9}})\s?[/\u2044\u2215]\s?([0-9]{{1,9}})(?![0-9]|[.,][0-9])")
_OVER = re.compile(r"\s?[/\u2044\u2215]\s?")
_SIGN = re.compile(r"[-+\u2212\u2013]")
_SIGN_BEFORE = re.compile(r"(?:\A|[^0-9A-Za-z)}\]])([-+\u2212\u2013])(?:\s?\\?[$\u20ac\u00a3\u00a5])?\Z")
_LETTER_BEFORE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{1,20}\Z|_\{?\Z")
_POWER_BEFORE = re.compile(r"(?:\^|\*\*)\s?[{(]?\s?[-+\u2212]?\Z")
_POWER_BEHIND = re.compile(
    rf"[{_SUPERSCRIPTS}]|\s?(?:\^|\*\*)(?!\{{?\s?(?:\\circ|\\degree|\\prime|(?:\\text\{{|\\mathrm\{{)?\s?(?:st|nd|rd|th)))(?!\*|\s|\Z)"
)
LOOK_BACK = 24
"""Characters before a number that decide what it is."""


def find_numbers(text: str) -> Iterator[Number]:
    """The numbers in the text, in their order, in linear time.

    A sign right behind a digit, a letter or a closing bracket subtracts and is no part of the number.
    """
    position = 0
    while start := _START.search(text, position):
        found = _number_at(text, start.start())
        position = found.end if found else start.end()
        if found:
            yield _in_context(text, found)


def _in_context(text: str, found: Number) -> Number:
    """The number with its sign, and without a value if it belongs to a power."""
    before = text[max(0, found.start - LOOK_BACK) : found.start]
    # Most numbers follow a blank, which decides all of it.
    last = "" if before[-1:].isspace() and before[-2:-1].isalpha() else before[-1:]
    sign = _SIGN_BEFORE.search(before) if last and last in "-+\u2212\u2013$\u20ac\u00a3\u00a5" else None
    start, value = found.start - (len(before) - sign.start(1) if sign else 0), found.value
    if (last and _POWER_BEFORE.search(before)) or _POWER_BEHIND.match(text, found.end):
        value = None
    elif sign and value is not None:
        value = _signed(value, sign[1])
    is_attached = (last.isalpha() or (last and last in "_{")) and _LETTER_BEFORE.search(before) is not None
    return Number(start, found.end, value, bool(is_attached))


def last_number(text: str) -> Number | None:
    """The last number in the text, in linear time: of those that no letter stands right before, if there are any."""
    last: Number | None = None
    for number in find_numbers(text):
        if last is None or last.is_attached or not number.is_attached:
            last = number
    return last


def read_number(text: str) -> Fraction | None:
    r"""The exact number that the whole text is, or None if it is not one.

    72, -1,234.5, 1 000, 10\,000, .5, 3/4, \frac{3}{4}, 1\frac12, 1 1/4, ½, 2e3, 2 \times 10^3. None for more than
    MAX_DIGITS characters, exponents beyond MAX_EXPONENT, and division by zero.
    """
    plain = text.strip()
    if len(plain) > MAX_DIGITS:
        return None
    plain = plain[:-1] if plain.endswith(".") else plain
    sign = _SIGN.match(plain)
    found = _number_at(plain, len(plain) - len(plain[1:].lstrip()) if sign else 0)
    if found is None or found.end < len(plain) or found.value is None:
        return None
    return _signed(found.value, sign.group()) if sign else found.value


def _signed(value: Fraction, sign: str) -> Fraction:
    return value if sign == "+" else -value


def _number_at(text: str, start: int) -> Number | None:
    """The number without a sign that begins there."""
    if fraction := _FRAC.match(text, start):
        return _number(fraction, start, _frac_value(fraction))
    if vulgar := _VULGAR.match(text, start):
        return _number(vulgar, start, _vulgar_value(vulgar.group()))
    if power := _POWER.match(text, start):
        return _number(power, start, _scaled(Fraction(1), next(filter(None, power.groups()))))
    decimal = _DECIMAL.match(text, start)
    if decimal is None:
        return None
    value, end = _decimal_value(decimal.group()), decimal.end()
    times = _TIMES.match(text, end)
    if power := _POWER.match(text, times.end()) if times else None:
        return _number(power, start, _scaled(value, next(filter(None, power.groups()))))
    if exponent := _EXPONENT.match(text, end):
        return _number(exponent, start, _scaled(value, exponent[1]))
    if decimal["part"] is None and (mixed := _mixed(text, start, end, value)):
        return mixed
    over = _OVER.match(text, end)
    if bottom := _DECIMAL.match(text, over.end()) if over else None:
        # With a blank, 1 125/250 may be 1125/250 or 1 + 125/250.
        is_clear = (decimal["comma"] or "x").strip() and (bottom["comma"] or "x").strip()
        return _number(bottom, start, _ratio(value, _decimal_value(bottom.group())) if is_clear else None)
    return _number(decimal, start, value)


def _mixed(text: str, start: int, end: int, whole: Fraction | None) -> Number | None:
    """A mixed number, whose whole part stands from start to end; None if no proper fraction follows."""
    behind = _GAPS.match(text, end)
    assert behind is not None
    found: re.Match[str] | None = None
    if found := _FRAC.match(text, behind.end()):
        rest = _frac_value(found)
    elif found := _VULGAR.match(text, behind.end()):
        rest = _vulgar_value(found.group())
    elif found := _TOP_AND_BOTTOM.match(text, end):
        rest = _ratio(Fraction(found[1]), Fraction(found[2]))
    else:
        return None
    if rest is None or not 0 < rest < 1:
        return None
    return _number(found, start, None if whole is None else whole + rest)


def _number(match: re.Match[str], start: int, value: Fraction | None) -> Number:
    return Number(start, match.end(), value if match.end() - start <= MAX_DIGITS else None, False)


def _decimal_value(text: str) -> Fraction | None:
    """The value of a match of _DECIMAL; a whole number may have anything between its thousands."""
    if len(text) > MAX_DIGITS:
        return None
    whole, point, part = text.rpartition(".") if "." in text else (text, "", "")
    return Fraction(re.sub("[^0-9]", "", whole) + point + part)


def _frac_value(match: re.Match[str]) -> Fraction | None:
    top, bottom = (match[1] or match[2]), (match[3] or match[4])
    return _ratio(_part_value(top), _part_value(bottom))


def _part_value(text: str) -> Fraction | None:
    sign = _SIGN.match(text)
    decimal = _DECIMAL.fullmatch(text, len(sign.group()) if sign else 0)
    value = _decimal_value(decimal.group()) if decimal else None
    return _signed(value, sign.group()) if sign and value is not None else value


def _vulgar_value(character: str) -> Fraction:
    top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
    return Fraction(int(top), int(bottom))


def _ratio(top: Fraction | None, bottom: Fraction | None) -> Fraction | None:
    return None if top is None or not bottom else top / bottom


def _scaled(value: Fraction | None, exponent: str) -> Fraction | None:
    """value x 10^exponent, whose digits may be superscripts; None if it is too large."""
    digits = unicodedata.normalize("NFKC", exponent).replace("\u2212", "-")
    if value is None or len(digits) > 9 or abs(int(digits)) > MAX_EXPONENT:
        return None
    return value * Fraction(10) ** int(digits)

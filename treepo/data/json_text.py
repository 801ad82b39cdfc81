"""JSON in which nothing is lost: numbers stay as they are written, and a key that is named twice is a mistake."""

import json
import re
from collections.abc import Iterator
from typing import Any

from treepo.errors import RecordError

_BLANKS = re.compile(r"[ \t\r\n]*")


class WrittenNumber(str):
    """A number as it is written: 1.50 is not 1.5."""


def parse_json(text: str) -> Any:
    """The value of a whole text; raises RecordError if it is not JSON or cannot be used."""
    value, end = _scan(text, 0)
    if rest := text[end:].strip():
        raise RecordError(f"not JSON: more after the value: {rest[:20]!r}")
    if isinstance(value, RecordError):
        raise value
    return value


def parse_object(text: str) -> dict[str, Any]:
    """The same for a JSON object."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise RecordError("not a JSON object")
    return value


def iterate_list(text: str) -> Iterator[Any]:
    """The items of a JSON list, one by one; a RecordError in place of one that is JSON and cannot be used.

    Raises RecordError where the text stops being JSON.
    """
    position, separator = _after_blanks(text, text.index("[") + 1), ","
    if text[position : position + 1] == "]":
        separator, position = "]", position + 1
    while separator == ",":
        value, end = _scan(text, position)
        yield value
        position = _after_blanks(text, end)
        separator, position = text[position : position + 1], position + 1
        if separator not in (",", "]"):
            raise RecordError(f"not JSON: no ',' or ']' after an item (char {position - 1})")
    if rest := text[position:].strip():
        raise RecordError(f"not JSON: more after the list: {rest[:20]!r}")


def _scan(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start`, or a RecordError if it cannot be used, and where it ends."""
    faults: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            names = [name for name, _ in pairs]
            faults.append(f"key {next(name for name in names if names.count(name) > 1)!r} is named twice")
        return built

    def refuse(name: str) -> None:
        faults.append(f"not JSON: {name} is not a JSON number")

    decoder = json.JSONDecoder(
        object_pairs_hook=build, parse_float=WrittenNumber, parse_int=WrittenNumber, parse_constant=refuse
    )
    try:
        value, end = decoder.raw_decode(text, _after_blanks(text, start))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error
    return (RecordError(faults[0]) if faults else value), end


def _after_blanks(text: str, start: int) -> int:
    found = _BLANKS.match(text, start)
    return found.end() if found else start

"""The columns of a record as verifiers and rewards see them: values that JSON can hold."""

import base64
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from treepo.data.fields import Record
from treepo.data.json_text import WrittenNumber
from treepo.errors import RecordError

MAX_DEPTH = 50
"""Lists and mappings within one another."""


def as_columns(record: Record) -> dict[str, Any]:
    """The record's fields by name, with the values that JSON can hold.

    Dates and times become ISO 8601 text, durations seconds, decimals text with all their places, bytes base64 text; a
    number that is not finite becomes None. Raises RecordError for anything else, and for values nested too deeply.
    """
    return {str(name): _plain(value, str(name), 0) for name, value in record.items()}


def _plain(value: Any, name: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise RecordError(f"field {name!r} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, name, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, name, depth + 1) for inner in value]
    if value is None or type(value) in (bool, int, str):
        return value
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    raise RecordError(f"field {name!r} holds a {type(value).__name__}, which JSON cannot hold")


def _number(written: WrittenNumber) -> int | float | str:
    """The number; its text where Python has no number for it (thousands of digits, 1e999)."""
    try:
        number = json.loads(written)
    except ValueError:
        return str(written)
    return number if math.isfinite(number) else str(written)


_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (WrittenNumber, _number),
    (str | int, lambda value: value),
    (float, lambda value: value if math.isfinite(value) else None),
    (Decimal, lambda value: f"{value:f}" if value.is_finite() else None),
    (date | time, lambda value: value.isoformat()),
    (timedelta, lambda value: value.total_seconds()),
    (bytes, lambda value: base64.b64encode(value).decode()),
)

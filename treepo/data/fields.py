"""Fields of a record: finding them by name, and reading them as text."""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from treepo.errors import MissingFieldError, RecordError

Record = Mapping[str, Any]
"""One record of a dataset: fields by name, nested ones as mappings and lists."""


def field_value(record: Record, name: str) -> Any:
    """The value of a field; of a nested one if the name has dots and the record has no field of just that name.

    Raises RecordError naming the field and those that are there.
    """
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise MissingFieldError(f"no field {name!r}; there are {sorted(_field_names(record))}")
        value = value[part]
    return value


def has_field(record: Record, name: str) -> bool:
    """Whether `field_value` finds the field."""
    try:
        field_value(record, name)
    except RecordError:
        return False
    return True


def text_of(value: Any, name: str, may_be_empty: bool = False) -> str:
    """The text or number that a field holds, as text; raises RecordError for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RecordError(f"field {name!r} must be text or a number, got {shortened(value)}")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise RecordError(f"field {name!r} must be a finite number, got {value!r}")
    # Without an exponent: Parquet's decimals have a fixed number of places.
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"field {name!r} holds half a surrogate pair, which is not text") from error
    # Characters without width show nothing either.
    if not may_be_empty and not any(character.isprintable() and not character.isspace() for character in text):
        raise RecordError(f"field {name!r} is empty")
    return text


def optional_text(record: Record, name: str) -> str:
    """The text of a field that may be empty or null."""
    value = field_value(record, name)
    return "" if value is None or value == "" else text_of(value, name).strip()


def shortened(value: Any) -> str:
    """A value for a message, at most 100 characters of it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _field_names(record: Record, before: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _field_names(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"

"""Which fields of a record hold the question and the ground truth."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from treepo.data.boxes import last_box
from treepo.errors import RecordError, SettingError

Record = Mapping[str, Any]
"""One record of a dataset: fields by name, nested ones as mappings and lists."""


@dataclass(frozen=True)
class RecordFormat:
    """Which fields hold what. Nested fields are named with dots: reward_model.ground_truth."""

    prompt_field: str = "prompt"
    """Field with the question: text, or a chat with one turn of the user."""

    answer_field: str = "answer"
    """Field with the ground truth; numbers are taken as they are written, several answers are joined by commas."""

    answer_after: str = ""
    """If given, the ground truth is what follows the last occurrence of this mark (GSM8K: ####)."""

    answer_in_box: bool = False
    """Whether the ground truth is what the last complete box of the field holds, as in MATH's solutions."""

    context_field: str = ""
    """Field with text that is put before the question where it is not empty."""

    unit_field: str = ""
    """Field with the unit of the ground truth; where it is not empty, the question asks for the answer without it."""

    id_field: str = ""
    """Field with a unique id of the problem; if not given, its place in the file is its id."""

    prefix: str = ""
    """Text before the question that is removed."""

    suffix: str = ""
    """Text after the question that is removed."""

    only_field: str = ""
    """Field that decides which records are used; all if not given."""

    only: tuple[str, ...] = ()
    """Values of `only_field` whose records are used."""

    def __post_init__(self) -> None:
        if self.answer_after and self.answer_in_box:
            raise SettingError("answer_after", "excludes answer_in_box", self.answer_after)
        if bool(self.only_field) != bool(self.only):
            name = "only_field" if self.only_field else "only"
            raise SettingError(name, "only_field and only go together", getattr(self, name))

    def takes(self, record: Record) -> bool:
        """Whether the record is used; raises RecordError if it lacks `only_field`."""
        return not self.only_field or str(field_value(record, self.only_field)) in self.only

    def question(self, record: Record) -> str:
        """The question; raises RecordError naming a field that is missing or unusable."""
        value = field_value(record, self.prompt_field)
        text = _text(_user_turn(value, self.prompt_field) if isinstance(value, list) else value, self.prompt_field)
        if self.prefix or self.suffix:
            text = text.strip().removeprefix(self.prefix.strip()).removesuffix(self.suffix.strip()).strip()
        if self.context_field and (context := _optional(record, self.context_field)):
            text = f"{context}\n{text}"
        if self.unit_field and (unit := _optional(record, self.unit_field)):
            text = f"{text}\nGive the answer in units of {unit}, without writing the unit."
        return _text(text, self.prompt_field)

    def ground_truth(self, record: Record) -> str:
        """The ground truth; raises RecordError naming a field that is missing or unusable."""
        name = self.answer_field
        value = field_value(record, name)
        if isinstance(value, list):
            if not value:
                raise RecordError(f"field {name!r} is an empty list")
            return ", ".join(_without_dollars(_text(item, name)) for item in value)
        text = _text(value, name)
        if self.answer_in_box:
            return _boxed(text, name)
        if self.answer_after:
            _, mark, text = text.rpartition(self.answer_after)
            if not mark:
                raise RecordError(f"no {self.answer_after!r} in field {name!r}")
            if not text.strip():
                raise RecordError(f"nothing after {self.answer_after!r} in field {name!r}")
        return text.strip()

    def id(self, record: Record) -> str:
        """The record's unique id; raises RecordError naming the field if it is unusable."""
        return _text(field_value(record, self.id_field), self.id_field).strip()


def field_value(record: Record, name: str) -> Any:
    """The value of a field; of a nested one if the name has dots and the record has no field of just that name.

    Raises RecordError naming the field and those that are there.
    """
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise RecordError(f"no field {name!r}; there are {sorted(_field_names(record))}")
        value = value[part]
    return value


def _field_names(record: Record, before: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _field_names(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RecordError(f"field {name!r} must be text or a number, got {_shortened(value)}")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise RecordError(f"field {name!r} must be a finite number, got {value!r}")
    # Without an exponent: Parquet's decimals have a fixed number of places.
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    if not text.strip():
        raise RecordError(f"field {name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"field {name!r} holds half a surrogate pair, which is not text") from error
    return text


def _optional(record: Record, name: str) -> str:
    value = field_value(record, name)
    return "" if value is None or value == "" else _text(value, name).strip()


def _user_turn(turns: list[Any], name: str) -> Any:
    """The content of a chat's only user turn; a system turn before it is left out."""
    roles = [turn.get("role") if isinstance(turn, Mapping) else None for turn in turns]
    if roles not in (["user"], ["system", "user"]):
        raise RecordError(f"field {name!r} must be text or a chat of one user turn, got {_shortened(turns)}")
    return turns[-1].get("content")


def _without_dollars(text: str) -> str:
    r"""$x$ without its dollar signs; other texts, such as `$x$ or $y$`, are unchanged."""
    text = text.strip()
    inner = text[1:-1]
    return inner if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in inner else text


def _boxed(text: str, name: str) -> str:
    r"""The last box of a solution. MATH also has \fbox{...} and, for single numbers, \boxed without braces."""
    content = last_box(text)
    if content is None:
        raise RecordError(f"no complete \\boxed in field {name!r}")
    if not content.strip():
        raise RecordError(f"the last \\boxed in field {name!r} is empty")
    return content.strip()


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

"""How a record of a set of problems holds a question and its answer."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from treepo.utils.text import last_box

Record = Mapping[str, Any]
"""One problem as its set holds it: fields by name, nested ones as mappings and lists."""

_BRACED_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_UNBRACED_BOX = re.compile(r"\\boxed\s+([^$\n]+)")


@dataclass(frozen=True)
class RecordFormat:
    """Which fields hold what. The name of a nested field is written with dots: reward_model.ground_truth."""

    prompt_field: str = "prompt"
    """Field with the question: text, or a chat with one turn of the user."""

    answer_field: str = "answer"
    """Field with the known answer; numbers are taken as they are written, several answers are joined by commas."""

    answer_after: str = ""
    """If given, the known answer is what follows the last occurrence of this mark (GSM8K: ####)."""

    answer_in_box: bool = False
    """The known answer is what the last complete box of the field holds, as in MATH's solutions."""

    context_field: str = ""
    """Field with text that goes before the question, where it is not empty."""

    unit_field: str = ""
    """Field with the unit that the known answer leaves out; the question then says so, where it is not empty."""

    id_field: str = ""
    """Field that tells the set's problems apart; if not given, their places in the file do."""

    prefix: str = ""
    """Text before the published question that is no part of it."""

    suffix: str = ""
    """Text after the published question that is no part of it."""

    only_field: str = ""
    """Field that says which records to take; all if not given."""

    only: tuple[str, ...] = ()
    """Values of `only_field` whose records are taken."""

    def __post_init__(self) -> None:
        if self.answer_after and self.answer_in_box:
            raise ValueError(f"answer_after and answer_in_box exclude each other, got {self.answer_after!r} and true")
        if bool(self.only_field) != bool(self.only):
            raise ValueError(f"only_field and only go together, got {self.only_field!r} and {list(self.only)}")

    def takes(self, record: Record) -> bool:
        """Whether the record is one of those wanted; raises ValueError if it lacks `only_field`."""
        return not self.only_field or str(field_value(record, self.only_field)) in self.only

    def question(self, record: Record) -> str:
        """The question as it is asked; raises ValueError naming a field that is missing or of no use."""
        value = field_value(record, self.prompt_field)
        text = _text(_users_turn(value, self.prompt_field) if isinstance(value, list) else value, self.prompt_field)
        if self.prefix or self.suffix:
            text = text.strip().removeprefix(self.prefix.strip()).removesuffix(self.suffix.strip()).strip()
        if self.context_field and (context := _optional(record, self.context_field)):
            text = f"{context}\n{text}"
        if self.unit_field and (unit := _optional(record, self.unit_field)):
            text = f"{text}\nGive the answer in units of {unit}, without writing the unit."
        return _text(text, self.prompt_field)

    def answer(self, record: Record) -> str:
        """The known answer; raises ValueError naming a field that is missing or of no use."""
        name = self.answer_field
        value = field_value(record, name)
        if isinstance(value, list):
            return ", ".join(_without_dollars(_text(item, name)) for item in _filled(value, name))
        text = _text(value, name)
        if self.answer_in_box:
            return _boxed(text, name)
        if self.answer_after:
            _, mark, text = text.rpartition(self.answer_after)
            if not mark:
                raise ValueError(f"no {self.answer_after!r} in field {name!r}")
            if not text.strip():
                raise ValueError(f"nothing after {self.answer_after!r} in field {name!r}")
        return text.strip()

    def id(self, record: Record) -> str:
        """What tells the record from the others of its set; raises ValueError naming the field if it is of no use."""
        return _text(field_value(record, self.id_field), self.id_field).strip()


def field_value(record: Record, name: str) -> Any:
    """The value of a field; of a nested one if the name has dots and the record has no field of just that name.

    Raises ValueError naming the field and those that are there.
    """
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"no field {name!r}; there are {sorted(_field_names(record))}")
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
        raise ValueError(f"field {name!r} must be text or a number, got {_shortened(value)}")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise ValueError(f"field {name!r} must be a finite number, got {value!r}")
    # Without an exponent: Parquet's decimals have a fixed number of places.
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    if not text.strip():
        raise ValueError(f"field {name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"field {name!r} holds half a surrogate pair, which is no text") from error
    return text


def _optional(record: Record, name: str) -> str:
    value = field_value(record, name)
    return "" if value is None or value == "" else _text(value, name).strip()


def _users_turn(turns: list[Any], name: str) -> Any:
    """The content of a chat's only user's turn; a system turn before it is a prompt's own affair."""
    roles = [turn.get("role") if isinstance(turn, Mapping) else None for turn in turns]
    if roles not in (["user"], ["system", "user"]):
        raise ValueError(f"field {name!r} must be text or a chat of one user's turn, got {_shortened(turns)}")
    return turns[-1].get("content")


def _filled(values: list[Any], name: str) -> list[Any]:
    if not values:
        raise ValueError(f"field {name!r} is an empty list")
    return values


def _without_dollars(text: str) -> str:
    r"""$x$ without its dollars; other texts, such as `$x$ or $y$`, as they are."""
    text = text.strip()
    inner = text[1:-1]
    return inner if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in inner else text


def _boxed(text: str, name: str) -> str:
    r"""The last box of a solution. MATH also has \fbox{...} and, for single numbers, \boxed without braces.

    Source: last_boxed_only_string and remove_boxed, hendrycks/math, modeling/dataset/util.py.
    """
    braced = _UNBRACED_BOX.sub(r"\\boxed{\1}", _BRACED_BOX.sub(r"\\boxed{", text))
    content = last_box(braced)
    if content is None:
        raise ValueError(f"no complete \\boxed in field {name!r}")
    if not content.strip():
        raise ValueError(f"the last \\boxed in field {name!r} is empty")
    return content.strip()


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

"""Rows of a file, each with a response and its known answer, and the verdicts on them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from treepo.data.columns import as_columns
from treepo.data.fields import Record, field_value, has_field, text_of
from treepo.data.formats import RecordFormat
from treepo.data.locations import LibrarySource
from treepo.data.problem import Verdict
from treepo.data.readers import raise_error, read_records
from treepo.data.sources import PRESETS, labels, parse_source
from treepo.errors import RecordError, SettingError
from treepo.verify.pool import VerifierPool

ROWS_TOGETHER = 1024
"""Rows that are judged in one batch."""

WORDS = {"true": 1.0, "yes": 1.0, "right": 1.0, "correct": 1.0, "false": 0.0, "no": 0.0, "wrong": 0.0, "incorrect": 0.0}
"""How an expected verdict may be written besides numbers from 0 to 1."""


@dataclass(frozen=True)
class RowFormat:
    """Which fields of a row hold what. Nested fields are named with dots: reward_model.ground_truth."""

    answer_field: str = "answer"
    """Field with the known answer."""

    response_field: str = "response"
    """Field with the response that is judged; an empty one is judged too."""

    answer_after: str = ""
    """If given, the known answer is what follows the last occurrence of this mark (GSM8K: ####)."""

    answer_in_box: bool = False
    """Whether the known answer is what the last box of the field holds, as in MATH's solutions."""

    on_bad_record: Literal["error", "skip"] = "error"
    """What is done about rows that cannot be used: end with the first one, or name and count them and go on."""

    def __post_init__(self) -> None:
        # Raises here, before anything is read.
        self.record_format()

    def record_format(self) -> RecordFormat:
        """The same fields, as a dataset has them."""
        return RecordFormat(
            answer_field=self.answer_field, answer_after=self.answer_after, answer_in_box=self.answer_in_box
        )


class Row(NamedTuple):
    """A response to be judged.

    place: where the row is, such as answers.jsonl:3. columns: all fields of the row, for verifiers that take some.
    expected: the verdict that is expected, from 0 to 1; None if none is asked for.
    """

    place: str
    response: str
    ground_truth: str
    columns: Mapping[str, Any]
    expected: float | None


def read_rows(
    source: str, form: RowFormat, expected_field: str = "", on_bad: Callable[[RecordError], None] = raise_error
) -> Iterator[Row]:
    """Yield the rows of a source as `--data.train` takes it; a named format says where the known answer is.

    expected_field: field with the expected verdict. on_bad: called with what is wrong with a row that cannot be used.
    Raises RecordError for what cannot be read, SettingError for a source that does not exist.
    """
    parsed = parse_source(source, "verify")
    if isinstance(parsed, LibrarySource):
        raise SettingError("verify", "problems of a library hold no responses; name a file with rows", source)
    preset = PRESETS.get(parsed.format)
    forms = (preset.form, *preset.other_forms) if preset else (form.record_format(),)
    for place, record in read_records(parsed, labels([parsed])[0], on_bad):
        fitting = next((one for one in forms if has_field(record, one.answer_field)), forms[0])
        try:
            response = _response(record, form.response_field)
            expected = _expected(record, expected_field) if expected_field else None
            yield Row(place, response, fitting.ground_truth(record), as_columns(record), expected)
        except RecordError as error:
            on_bad(error.at(place))


def judge_rows(pool: VerifierPool, rows: Iterable[Row]) -> Iterator[tuple[Row, Verdict]]:
    """Yield each row with its verdict, in their order; raises what `VerifierPool.verify` and the rows raise."""
    remaining = iter(rows)
    while batch := list(islice(remaining, ROWS_TOGETHER)):
        pairs = [(row.response, row.ground_truth) for row in batch]
        yield from zip(batch, pool.verify(pairs, [row.columns for row in batch]), strict=True)


def _response(record: Record, name: str) -> str:
    value = field_value(record, name)
    # As a model wrote it: half a surrogate pair is no mistake of the file.
    return value if isinstance(value, str) else "" if value is None else text_of(value, name)


def _expected(record: Record, name: str) -> float:
    value = field_value(record, name)
    written = str(value).strip().lower()
    try:
        number = WORDS[written] if written in WORDS else float(written)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise RecordError(f"field {name!r} must be true, false or a number from 0 to 1, got {str(value)[:100]!r}")
    return number

"""Which fields of rows that a program hands over hold what."""

from collections.abc import Sequence
from dataclasses import replace

from treepo.data.boxes import last_box
from treepo.data.fields import Record, field_value, has_field
from treepo.data.formats import RecordFormat
from treepo.errors import RecordError

PROMPTS = ("prompt", "question", "problem", "query", "instruction", "messages", "input")
ANSWERS = (
    "answer",
    "ground_truth",
    "reward_model.ground_truth",
    "final_answer",
    "solution",
    "target",
    "label",
    "output",
)
"""Fields in which the question and the known answer of a row are looked for, in this order."""

NUM_LOOKED_AT = 100
"""Rows whose fields decide on the format."""


def detected_format(rows: Sequence[Record], wanted: RecordFormat) -> RecordFormat:
    """The format of rows that come without one: where the settings name no fields, those that are there.

    Known answers that all hold #### are what follows it, as in GSM8K; those that all hold a box, what is in it, as in
    MATH. Without any field for them there are no known answers. wanted: the format of the settings, which is kept
    wherever it differs from the defaults. Raises RecordError if no field can be the question.
    """
    default, looked_at = RecordFormat(), rows[:NUM_LOOKED_AT]
    if wanted.prompt_field == default.prompt_field:
        wanted = replace(wanted, prompt_field=_first_field(PROMPTS, looked_at) or "")
        if not wanted.prompt_field:
            names = ", ".join(map(str, looked_at[0]))
            raise RecordError(f"no column holds the question; there are {names}: name it in data.prompt_field")
    if wanted.answer_field != default.answer_field:
        return wanted
    others = [name for name in ANSWERS if name != wanted.prompt_field]
    wanted = replace(wanted, answer_field=_first_field(others, looked_at) or "")
    if not wanted.answer_field or wanted.answer_after or wanted.answer_in_box:
        return wanted
    texts = [str(field_value(row, wanted.answer_field)) for row in looked_at]
    if all("####" in text for text in texts):
        return replace(wanted, answer_after="####")
    return replace(wanted, answer_in_box=all(last_box(text) is not None for text in texts))


def _first_field(names: Sequence[str], rows: Sequence[Record]) -> str | None:
    return next((name for name in names if all(has_field(row, name) for row in rows)), None)

"""Which fields of a record hold the question and the ground truth."""

from dataclasses import dataclass

from treepo.data.boxes import last_box
from treepo.data.conversations import (
    Prompt,
    asked_turns,
    find_messages,
    question_of,
    read_conversation,
    with_last_question,
)
from treepo.data.fields import Record, field_value, has_field, optional_text, text_of
from treepo.errors import RecordError, SettingError


@dataclass(frozen=True)
class RecordFormat:
    """Which fields hold what. Nested fields are named with dots: reward_model.ground_truth."""

    prompt_field: str = "prompt"
    """Field with the question: text, or a list of messages (a chat), also as JSON text."""

    answer_field: str = "answer"
    """Field with the ground truth; numbers are taken as they are written, several answers are joined by commas. Empty
    where there is none, which needs verifier.use = "NoVerifier"."""

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

    def fits(self, record: Record) -> bool:
        """Whether the record has the fields of the question and of the ground truth."""
        return has_field(record, self.prompt_field) and (not self.answer_field or has_field(record, self.answer_field))

    def prompt(self, record: Record) -> Prompt:
        """What the record asks; raises RecordError naming a field that is missing or unusable."""
        name, value = self.prompt_field, field_value(record, self.prompt_field)
        messages = find_messages(value, name)
        if messages is None:
            return self._with_context(record, text_of(value, name))
        conversation = read_conversation(messages, name)
        return with_last_question(conversation, self._with_context(record, asked_turns(conversation)[-1].content))

    def question(self, record: Record) -> str:
        """The text of the question; raises what `prompt` raises."""
        return question_of(self.prompt(record))

    def _with_context(self, record: Record, text: str) -> str:
        """The question without prefix and suffix, after its context, and with its unit."""
        if self.prefix or self.suffix:
            text = text.strip().removeprefix(self.prefix.strip()).removesuffix(self.suffix.strip()).strip()
        if self.context_field and (context := optional_text(record, self.context_field)):
            text = f"{context}\n{text}"
        if self.unit_field and (unit := optional_text(record, self.unit_field)):
            text = f"{text}\nGive the answer in units of {unit}, without writing the unit."
        return text_of(text, self.prompt_field)

    def ground_truth(self, record: Record) -> str:
        """The ground truth; raises RecordError naming a field that is missing or unusable."""
        name = self.answer_field
        if not name:
            return ""
        value = field_value(record, name)
        if isinstance(value, list):
            if not value:
                raise RecordError(f"field {name!r} is an empty list")
            return ", ".join(_without_dollars(text_of(item, name)) for item in value)
        text = text_of(value, name)
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
        return text_of(field_value(record, self.id_field), self.id_field).strip()


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

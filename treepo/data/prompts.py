"""From a question to the token ids that the model is conditioned on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from treepo.data.formats import RecordFormat
from treepo.data.readers import read_records
from treepo.data.sources import Source
from treepo.errors import RecordError, SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


QUESTION = "{question}"
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Shot:
    """An example that goes before the question: another question, and a response to it."""

    question: str
    answer: str


@dataclass(frozen=True)
class PromptTemplate:
    """The text around a question."""

    chat: Literal["auto", "always", "never"] = "auto"
    """Whether the tokenizer's chat template is applied: if there is one, always, or never."""

    system: str = ""
    """The system message; none if empty."""

    question: str = QUESTION + INSTRUCTION
    """The user turn, with {question} for the question."""

    few_shot: str = ""
    """JSON-lines file of examples, with the fields question and answer, that go before the question."""

    num_shots: int = 0
    """Number of examples, the first ones of the file; 0 for all of them."""

    def __post_init__(self) -> None:
        if QUESTION not in self.question:
            raise SettingError("question", f"must hold {QUESTION}", self.question)
        if self.num_shots < 0:
            raise SettingError("num_shots", "must not be negative", self.num_shots)
        if self.num_shots and not self.few_shot:
            raise SettingError("num_shots", "needs few_shot, a file of examples", self.num_shots)

    def read_shots(self) -> tuple[Shot, ...]:
        """The examples; raises SettingError if the file cannot be read, or has fewer than `num_shots`."""
        if not self.few_shot:
            return ()
        # Not Path.is_file, which raises OSError where a name is too long.
        if not os.path.isfile(self.few_shot):
            raise SettingError("prompt.few_shot", f"cannot read {self.few_shot!r}: no such file")
        form = RecordFormat("question", "answer")
        shots = []
        try:
            for place, record in read_records(Source(self.few_shot), Path(self.few_shot).name):
                try:
                    shots.append(Shot(form.question(record), form.ground_truth(record)))
                except RecordError as error:
                    raise error.at(place) from error
        except RecordError as error:
            raise SettingError("prompt.few_shot", str(error)) from error
        if len(shots) < self.num_shots:
            message = f"must be at most {len(shots)}, the examples in {self.few_shot!r}"
            raise SettingError("prompt.num_shots", message, self.num_shots)
        return tuple(shots[: self.num_shots or len(shots)])

    def encode(self, tokenizer: PreTrainedTokenizerBase, question: str, shots: Sequence[Shot] = ()) -> list[int]:
        """Token ids of a question, with the shots before it.

        In a chat the shots are turns of user and assistant, and the prompt ends where the assistant's turn begins. As
        plain text, the system message and each shot (its answer on a new line) end in an empty line. Raises
        SettingError if the template cannot be applied.
        """
        if self.chat == "always" and not tokenizer.chat_template:
            raise SettingError("prompt.chat", "the tokenizer has no chat template", self.chat)
        # Not verbose: the caller reports prompts that do not fit.
        if self.chat == "never" or not tokenizer.chat_template:
            return tokenizer.encode(self._text(question, shots), verbose=False)
        turns = self._turns(question, shots)
        try:
            rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # The template is a program that comes with the model; it and transformers' checks may raise anything.
        except Exception as error:
            first_line = str(error).strip().split("\n")[0] or type(error).__name__
            raise SettingError("model.path", f"the chat template cannot be applied: {first_line}") from error
        return tokenizer.encode(str(rendered), add_special_tokens=False, verbose=False)

    def encoder(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
        """`encode` with this tokenizer and the shots, which are read now; raises what `read_shots` raises."""
        shots = self.read_shots()
        return lambda question: self.encode(tokenizer, question, shots)

    def _fill(self, question: str) -> str:
        # Not str.format: questions and instructions are full of braces.
        return self.question.replace(QUESTION, question)

    def _turns(self, question: str, shots: Sequence[Shot]) -> list[dict[str, str]]:
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for shot in shots:
            turns.append({"role": "user", "content": self._fill(shot.question)})
            turns.append({"role": "assistant", "content": shot.answer})
        return [*turns, {"role": "user", "content": self._fill(question)}]

    def _text(self, question: str, shots: Sequence[Shot]) -> str:
        blocks = [self.system] if self.system else []
        blocks += [f"{self._fill(shot.question)}\n{shot.answer}" for shot in shots]
        return "\n\n".join([*blocks, self._fill(question)])

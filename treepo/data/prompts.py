"""From a question to what the model is conditioned on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from treepo.data.formats import RecordFormat
from treepo.data.readers import read_records
from treepo.data.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


QUESTION = "{question}"
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Shot:
    """An example that goes before the question: what was asked, and what a model should have written."""

    question: str
    answer: str


@dataclass(frozen=True)
class PromptTemplate:
    """What stands around a question."""

    chat: Literal["auto", "always", "never"] = "auto"
    """Whether the tokenizer's chat template is applied: where there is one, always, or never."""

    system: str = ""
    """What the system says first; nothing if empty."""

    question: str = QUESTION + INSTRUCTION
    """The user's turn; the question goes where {question} stands."""

    few_shot: str = ""
    """JSON-lines file of examples, with the fields question and answer, that go before the question."""

    num_shots: int = 0
    """How many examples, the first ones of the file; 0 for all of them."""

    def __post_init__(self) -> None:
        if QUESTION not in self.question:
            raise ValueError(f"question must hold {QUESTION}, got {self.question!r}")
        if self.num_shots < 0:
            raise ValueError(f"num_shots must not be negative, got {self.num_shots}")
        if self.num_shots and not self.few_shot:
            raise ValueError(f"num_shots needs few_shot, a file of examples, got {self.num_shots}")

    def read_shots(self) -> tuple[Shot, ...]:
        """The examples; raises ValueError if the file cannot be read, or has fewer than are wanted."""
        if not self.few_shot:
            return ()
        form = RecordFormat("question", "answer")
        shots = []
        try:
            # Not Path.is_file, which raises OSError where a name is too long.
            if not os.path.isfile(self.few_shot):
                raise ValueError(f"cannot read {self.few_shot!r}: no such file")
            for place, record in read_records(Source(self.few_shot), Path(self.few_shot).name):
                try:
                    shots.append(Shot(form.question(record), form.answer(record)))
                except ValueError as error:
                    raise ValueError(f"{place}: {error}") from error
        except ValueError as error:
            raise ValueError(f"prompt.few_shot: {error}") from error
        if len(shots) < self.num_shots:
            raise ValueError(f"prompt.num_shots: {self.few_shot!r} has {len(shots)} examples, not {self.num_shots}")
        return tuple(shots[: self.num_shots or len(shots)])

    def encode(self, tokenizer: PreTrainedTokenizerBase, question: str, shots: Sequence[Shot] = ()) -> list[int]:
        """Token ids of a question, with the shots before it.

        In a chat they are the turns of a user and an assistant, and the answer's turn is opened. As plain text
        everything is joined: the system's text and each shot, its answer on a new line, end in an empty line. Raises
        ValueError if the template cannot be applied.
        """
        if self.chat == "always" and not tokenizer.chat_template:
            raise ValueError("prompt.chat: 'always', but the tokenizer has no chat template")
        # Not verbose: whether a prompt fits is told by whoever asks, and in one line.
        if self.chat == "never" or not tokenizer.chat_template:
            return tokenizer.encode(self._text(question, shots), verbose=False)
        turns = self._turns(question, shots)
        try:
            rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # A template is a program that comes with the model, and transformers checks what it is given: either may raise
        # anything.
        except Exception as error:
            first_line = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"model.path: the chat template cannot be applied: {first_line}") from error
        return tokenizer.encode(str(rendered), add_special_tokens=False, verbose=False)

    def encoder(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
        """`encode` with this tokenizer and the examples, which are read now; raises what `read_shots` raises."""
        shots = self.read_shots()
        return lambda question: self.encode(tokenizer, question, shots)

    def _asked(self, question: str) -> str:
        # Not str.format: questions and instructions are full of braces.
        return self.question.replace(QUESTION, question)

    def _turns(self, question: str, shots: Sequence[Shot]) -> list[dict[str, str]]:
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for shot in shots:
            turns.append({"role": "user", "content": self._asked(shot.question)})
            turns.append({"role": "assistant", "content": shot.answer})
        return [*turns, {"role": "user", "content": self._asked(question)}]

    def _text(self, question: str, shots: Sequence[Shot]) -> str:
        blocks = [self.system] if self.system else []
        blocks += [f"{self._asked(shot.question)}\n{shot.answer}" for shot in shots]
        return "\n\n".join([*blocks, self._asked(question)])

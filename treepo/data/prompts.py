"""From a question or a conversation to the token ids that the model is conditioned on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from treepo.data.chat_template import ChatTemplate, Schema, with_tools_text
from treepo.data.conversations import Conversation, Prompt, Turn, asked_turns, own_prefill, own_system
from treepo.data.fields import Record
from treepo.data.formats import RecordFormat
from treepo.data.json_text import parse_object
from treepo.data.locations import Source
from treepo.data.readers import read_records
from treepo.errors import RecordError, SettingError
from treepo.utils.limits import time_limit
from treepo.utils.text import shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


QUESTION = "{question}"
RESERVED_KWARGS = {
    *("add_generation_prompt", "chat_template", "continue_final_message", "conversation", "max_length", "messages"),
    *("padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize", "tokenizer_kwargs"),
    *("truncation", "sanitize_control_tokens"),
}
"""Arguments of `apply_chat_template` that are no variables of a template, and those that this module passes itself."""

ENCODE_S = 10.0
"""Longest time for one prompt, besides that for its length; it takes a millisecond."""

CHARS_PER_S = 50_000
"""A tokenizer that is slower than this takes too long for the length of a prompt."""

_TEMPLATE_CODE = re.compile(r"\{[%{].*?[%}]\}", re.DOTALL)
_TEMPLATE_TEXT = re.compile(r"'[^']*'|\"[^\"]*\"")

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
    """The system message of prompts that have none of their own; none if empty."""

    question: str = QUESTION + INSTRUCTION
    """The user's turn, with {question} for the question; in a conversation the last one."""

    prefill: str = ""
    """The beginning of every response, which the model goes on with, of prompts that have none of their own. It is a
    part of the prompt: neither trained on nor seen by the verifier."""

    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template, such as enable_thinking = false."""

    few_shot: str = ""
    """Examples that go before the question, with the fields question and answer: a file of JSON lines, or these lines
    themselves."""

    num_shots: int = 0
    """Number of examples, the first ones of the file; 0 for all of them."""

    def __post_init__(self) -> None:
        if QUESTION not in self.question:
            raise SettingError("question", f"must hold {QUESTION}", self.question)
        if self.num_shots < 0:
            raise SettingError("num_shots", "must not be negative", self.num_shots)
        if self.num_shots and not self.few_shot:
            raise SettingError("num_shots", "needs few_shot, a file of examples", self.num_shots)
        self._check_kwargs()

    def _check_kwargs(self) -> None:
        for name, value in self.chat_template_kwargs.items():
            if name in RESERVED_KWARGS:
                raise SettingError(f"chat_template_kwargs.{name}", "is set by treepo", value)
        if self.chat_template_kwargs and self.chat == "never":
            raise SettingError("chat_template_kwargs", "needs a chat template, but chat is 'never'")

    def read_shots(self) -> tuple[Shot, ...]:
        """The examples; raises SettingError if the file cannot be read, or has fewer than `num_shots`."""
        if not self.few_shot:
            return ()
        try:
            shots = list(self._shots())
        except RecordError as error:
            raise SettingError("prompt.few_shot", str(error)) from error
        if len(shots) < self.num_shots:
            message = f"must be at most {len(shots)}, the examples in {shorten(self.few_shot)!r}"
            raise SettingError("prompt.num_shots", message, self.num_shots)
        return tuple(shots[: self.num_shots or len(shots)])

    def _shots(self) -> Iterator[Shot]:
        """All examples. Raises RecordError."""
        form = RecordFormat("question", "answer")
        for place, record in self._records():
            try:
                yield Shot(form.question(record), form.ground_truth(record))
            except RecordError as error:
                raise error.at(place) from error

    def _records(self) -> Iterator[tuple[str, Record]]:
        """(where it is, the record) of each example. Raises RecordError."""
        if self.few_shot.lstrip().startswith("{"):
            # Not splitlines: it also ends lines at characters that may be inside a JSON string.
            for number, line in enumerate(self.few_shot.strip().split("\n"), start=1):
                yield f"example {number}", _parse_shot(line, number)
        # Not Path.is_file, which raises OSError where a name is too long.
        elif os.path.isfile(self.few_shot):
            yield from read_records(Source(self.few_shot), Path(self.few_shot).name)
        else:
            raise RecordError(f"cannot read {self.few_shot!r}: no such file")

    def encode(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, shots: Sequence[Shot] = ()) -> list[int]:
        """Token ids of a prompt, with the shots before it; see `PromptEncoder`."""
        return PromptEncoder(self, tokenizer, tuple(shots))(prompt)

    def encoder(self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Schema] = ()) -> PromptEncoder:
        """`encode` with this tokenizer and the shots, which are read now; raises what `read_shots` raises.

        tools: those that the model may call.
        """
        return PromptEncoder(self, tokenizer, self.read_shots(), tuple(tools))

    def turns(self, prompt: Prompt, shots: Sequence[Shot] = ()) -> tuple[Conversation, str]:
        """The turns up to the last one of the user, and the beginning of the response."""
        system, prefill = own_system(prompt), own_prefill(prompt)
        if system is None and self.system:
            system = self.system
        *earlier, last = asked_turns(prompt)
        turns = [] if system is None else [Turn("system", system)]
        for shot in shots:
            turns += [Turn("user", self._fill(shot.question)), Turn("assistant", shot.answer)]
        turns += [*earlier, replace(last, content=self._fill(last.content))]
        return tuple(turns), self.prefill if prefill is None else prefill

    def _fill(self, question: str) -> str:
        # Not str.format: questions and instructions are full of braces.
        return self.question.replace(QUESTION, question)


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes prompts by a template for one tokenizer, with shots before each.

    In a chat the shots are turns of user and assistant before those of the conversation, and the prompt ends where the
    assistant's turn begins, or in the prefill. As plain text, the system message and each question with its answer (on
    a new line) end in an empty line. Text that already holds special tokens of the chat template is taken as it is.
    tools: those that the model may call; the chat template describes them, or else the system message.
    """

    template: PromptTemplate
    tokenizer: PreTrainedTokenizerBase
    shots: tuple[Shot, ...] = ()
    tools: tuple[Schema, ...] = ()

    def __call__(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; raises SettingError if the chat template cannot be applied, or takes too long."""
        num_chars = len(str(prompt))
        seconds = ENCODE_S + num_chars / CHARS_PER_S
        message = f"its tokenizer or chat template takes more than {seconds:.0f} seconds for {num_chars} characters"
        with time_limit(seconds, SettingError("model.path", message)):
            return self._encode(prompt)

    def _encode(self, prompt: Prompt) -> list[int]:
        tokenizer, template = self.tokenizer, self.template
        if template.chat == "always" and not tokenizer.chat_template:
            raise SettingError("prompt.chat", "the tokenizer has no chat template", template.chat)
        if template.chat_template_kwargs:
            self._check_kwargs()
        # Not verbose: the caller reports prompts that do not fit.
        if isinstance(prompt, str) and self.is_templated(prompt):
            has_bos = bool(tokenizer.bos_token) and prompt.startswith(str(tokenizer.bos_token))
            return tokenizer.encode(prompt, add_special_tokens=not has_bos, verbose=False)
        turns, prefill = template.turns(prompt, self.shots)
        if template.chat == "never" or not tokenizer.chat_template:
            if self.tools:
                turns = self._with_tools(turns)
            return tokenizer.encode(_as_plain_text(turns, prefill), verbose=False)
        return tokenizer.encode(self._apply(turns) + prefill, add_special_tokens=False, verbose=False)

    def is_templated(self, prompt: Prompt) -> bool:
        """Whether a plain text already holds special tokens that the chat template puts around turns."""
        if not isinstance(prompt, str) or not self.tokenizer.chat_template:
            return False
        found = [token for token in self._special_tokens if token in prompt]
        # Its bos counts at the beginning only: in Llama's vocabulary that is <s>, which HTML has too.
        bos = self.tokenizer.bos_token
        marks = [token for token in found if token != bos or prompt.startswith(token)]
        marks = [token for token in marks if token in self._rendered_example]
        rest = prompt
        for mark in marks:
            rest = rest.replace(mark, "")
        return bool(marks) and bool(rest.strip())

    @cached_property
    def _special_tokens(self) -> list[str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        return sorted(special - {""})

    @cached_property
    def _rendered_example(self) -> str:
        return self._apply((Turn("user", "0"),))

    def _with_tools(self, turns: Conversation) -> Conversation:
        messages = with_tools_text([{"role": turn.role, "content": turn.content} for turn in turns], self.tools)
        return tuple(Turn(message["role"], message["content"]) for message in messages)

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.template.chat_template_kwargs, self.tools)

    def _apply(self, turns: Conversation) -> str:
        """The chat as text, up to where the assistant's turn begins."""
        return self._chat_template([{"role": turn.role, "content": turn.content} for turn in turns])

    def _check_kwargs(self) -> None:
        """Raise SettingError for a variable that the chat template would ignore."""
        source = self.tokenizer.chat_template or ""
        text = "\n".join(map(str, source.values())) if isinstance(source, Mapping) else str(source)
        code = " ".join(_TEMPLATE_TEXT.sub("", found) for found in _TEMPLATE_CODE.findall(text))
        names = set(re.findall(r"\w+", code))
        for name, value in self.template.chat_template_kwargs.items():
            path = f"prompt.chat_template_kwargs.{name}"
            if not text:
                raise SettingError(path, "the tokenizer has no chat template", value)
            if name not in names:
                raise SettingError(path, "the chat template has no such variable", value)


def _parse_shot(line: str, number: int) -> Record:
    try:
        return parse_object(line)
    except RecordError as error:
        raise error.at(f"example {number}") from error


def _as_plain_text(turns: Conversation, prefill: str) -> str:
    first, *others = [turn for turn in turns if turn.content or turn.role != "system"]
    text = first.content
    for turn in others:
        text += ("\n" if turn.role == "assistant" else "\n\n") + turn.content
    return f"{text}\n{prefill}" if prefill else text

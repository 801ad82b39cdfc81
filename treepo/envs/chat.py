"""Messages as token ids: a prompt, and what stands between two turns of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from treepo.data.chat_template import ChatTemplate, Schema, with_tools_text
from treepo.data.prompts import PromptTemplate
from treepo.envs.base import Message
from treepo.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "TREEPO0TURN0MARK"
"""Stands for what the model wrote where only what follows it is wanted."""

TOOL = "tool"
"""The role of what a tool returned."""

REASONING = "<think>\na\n</think>\n\n"


@dataclass(frozen=True)
class ChatTurns:
    """Renders messages by the tokenizer's chat template, or, without one, as plain text.

    What the model sampled is never tokenized again: a reply is rendered behind a mark in the place of the model's turn,
    and what follows the mark is encoded. template: how prompts are written; its system message and question are not
    used, since the environment writes the prompt. tools: those that the model may call, described in prompts.
    """

    tokenizer: PreTrainedTokenizerBase
    template: PromptTemplate = PromptTemplate()
    tools: tuple[Schema, ...] = ()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the messages up to where the model's turn begins."""
        text = self._rendered(messages, tools=self.tools)
        return self.tokenizer.encode(text, add_special_tokens=not self._is_chat, verbose=False)

    def reply_ids(self, history: Sequence[Message], messages: Sequence[Message], last_id: int) -> list[int]:
        """Token ids of what stands between a turn of the model and its next one.

        history: the messages before that turn. messages: the reply. last_id: the token that ended the turn; where the
        template ends turns with it, the reply begins behind it.
        """
        if any(message["role"] == TOOL for message in messages):
            # Templates differ in how calls stand in earlier turns; what follows the last one does not depend on it.
            history = _before_first_turn(history)
            messages = [self._tool_message(message) for message in messages]
        ended = self._encoded(self._after_mark(history, (), is_asked=False))
        ids = self._encoded(self._after_mark(history, messages))
        is_written = self._is_chat and last_id in ended
        return ids[ended.index(last_id) + 1 :] if is_written else ids

    def marked_text(self, turn_ids: Sequence[int]) -> str:
        """The text of a turn with its special tokens, which may mark tool calls, but for the one that ended it."""
        ids = list(turn_ids[:-1])
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def history_warning(self, messages: Sequence[Message]) -> str:
        """How the template's own rendering of a conversation differs from what the model is given, or nothing.

        Some templates rewrite earlier turns: most often they leave out reasoning. messages: of a prompt.
        """
        if not self._is_chat:
            return ""
        if self._agrees(messages, REASONING):
            return ""
        what = "leaves out the reasoning of earlier turns" if self._agrees(messages, "") else "rewrites earlier turns"
        name = self.tokenizer.name_or_path or "the tokenizer"
        return (
            f"the chat template of {name} {what}: trajectories keep each turn as it was sampled, so from the second "
            "turn on the model reads more than it would where the template is applied to the whole conversation"
        )

    def _agrees(self, messages: Sequence[Message], reasoning: str) -> bool:
        text, reply = f"{reasoning}b", ({"role": "user", "content": "c"},)
        whole = self._rendered([*messages, {"role": "assistant", "content": text}, *reply])
        return whole == self._rendered(messages) + text + self._after_mark(messages, reply)

    def _after_mark(self, history: Sequence[Message], messages: Sequence[Message], is_asked: bool = True) -> str:
        """The text that follows the model's turn."""
        turn = {"role": "assistant", "content": MARK}
        before, mark, after = self._rendered([*history, turn, *messages], is_asked).rpartition(MARK)
        if not mark or MARK in before:
            raise SettingError("model.path", "the chat template does not write what the assistant said as it is")
        return after

    @property
    def _is_chat(self) -> bool:
        return self.template.chat != "never" and bool(self.tokenizer.chat_template)

    def _encoded(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def _rendered(self, messages: Sequence[Message], is_asked: bool = True, tools: Sequence[Schema] = ()) -> str:
        """The messages as text. is_asked: whether the model's turn begins at its end."""
        if not self._is_chat:
            messages = with_tools_text(messages, tools) if tools else messages
            texts = [str(message.get("content", "")) for message in messages]
            return "\n".join(texts) + "\n" * is_asked
        return (self._with_tools if tools else self._without_tools)(messages, is_asked)

    @cached_property
    def _with_tools(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.template.chat_template_kwargs, self.tools)

    @cached_property
    def _without_tools(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.template.chat_template_kwargs)

    def _tool_message(self, message: Message) -> Message:
        """A tool's message as it is, or as one of the user where the template does not write those of tools."""
        if message["role"] != TOOL or self._writes_tool_messages:
            return message
        return {"role": "user", "content": f"<tool_response>\n{message.get('content', '')}\n</tool_response>"}

    @cached_property
    def _writes_tool_messages(self) -> bool:
        if not self._is_chat:
            return True
        probe: dict[str, Any] = {"role": TOOL, "name": "f", "content": MARK[::-1], "tool_call_id": "treepo000"}
        try:
            return MARK[::-1] in self._after_mark([{"role": "user", "content": "a"}], [probe])
        except SettingError:
            return False


def _before_first_turn(history: Sequence[Message]) -> Sequence[Message]:
    first = next((i for i, message in enumerate(history) if message["role"] == "assistant"), len(history))
    return history[:first]

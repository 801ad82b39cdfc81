"""Messages as token ids: a prompt, and what stands between two turns of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treepo.data.prompts import PromptTemplate
from treepo.envs.base import Message
from treepo.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "TREEPO0TURN0MARK"
"""Stands for what the model wrote where only what follows it is wanted."""

REASONING = "<think>\na\n</think>\n\n"


@dataclass(frozen=True)
class ChatTurns:
    """Renders messages by the tokenizer's chat template, or, without one, as plain text.

    What the model sampled is never tokenized again: a reply is rendered behind a mark in the place of the model's turn,
    and what follows the mark is encoded. template: how prompts are written; its system message and question are not
    used, since the environment writes the prompt.
    """

    tokenizer: PreTrainedTokenizerBase
    template: PromptTemplate = PromptTemplate()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the messages up to where the model's turn begins."""
        return self.tokenizer.encode(self._rendered(messages), add_special_tokens=not self._is_chat, verbose=False)

    def reply_ids(self, history: Sequence[Message], messages: Sequence[Message], last_id: int) -> list[int]:
        """Token ids of what stands between a turn of the model and its next one.

        history: the messages before that turn. messages: the reply. last_id: the token that ended the turn; where the
        template ends turns with it, the reply begins behind it.
        """
        ended = self._encoded(self._after_mark(history, (), is_asked=False))
        ids = self._encoded(self._after_mark(history, messages))
        is_written = self._is_chat and last_id in ended
        return ids[ended.index(last_id) + 1 :] if is_written else ids

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

    def _rendered(self, messages: Sequence[Message], is_asked: bool = True) -> str:
        """The messages as text. is_asked: whether the model's turn begins at its end."""
        if not self._is_chat:
            texts = [str(message.get("content", "")) for message in messages]
            return "\n".join(texts) + "\n" * is_asked
        kwargs = self.template.chat_template_kwargs
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=is_asked, **kwargs
            )
        # The template is a program that comes with the model; it and transformers' checks may raise anything.
        except Exception as error:
            first_line = str(error).strip().split("\n")[0] or type(error).__name__
            raise SettingError("model.path", f"the chat template cannot be applied: {first_line}") from error
        return str(rendered)

"""Prompts of several turns, as records hold them: lists of messages, or the JSON text of one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from treepo.data.fields import shortened, text_of
from treepo.data.json_text import parse_json
from treepo.errors import RecordError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation. role: system, user or assistant."""

    role: str
    content: str


Conversation = tuple[Turn, ...]
"""A system turn, if there is one, then turns of user and assistant. A last turn of the assistant is the beginning of
the response, which the model goes on with."""

Prompt = str | Conversation
"""A question as plain text, which is one turn of the user, or a conversation with more turns."""

_LOOKS_LIKE_CHAT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content)['"]\s*:""")


def find_messages(value: Any, name: str) -> list[Any] | None:
    """The messages that a field holds, as a list or as the JSON text of a list; None if it holds other text.

    Raises RecordError for text that looks like a list of messages but is no JSON, as Python's own notation.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, str) or not _LOOKS_LIKE_CHAT.match(value):
        return None
    try:
        return parse_json(value)
    except RecordError as error:
        message = f"field {name!r} looks like a chat, but cannot be read: {error.message}: {shortened(value)}"
        raise RecordError(message) from error


def read_conversation(messages: list[Any], name: str) -> Conversation:
    """The turns of a list of messages; raises RecordError naming the field if they are not a conversation.

    A message has a role and a content: text, or content parts as OpenAI has them, whose texts are joined by line
    breaks. A developer is a system.
    """
    turns = tuple(_turn(message, name) for message in messages)
    roles = [turn.role for turn in turns]
    if "user" not in roles:
        raise RecordError(f"field {name!r} must be text or a chat with a turn of the user, got {shortened(messages)}")
    if "system" in roles[1:]:
        raise RecordError(f"field {name!r}: a system turn must be the first, got the roles {roles}")
    if roles[-1] == "assistant" and roles[-2] != "user":
        raise RecordError(f"field {name!r}: a last turn of the assistant must follow one of the user, got {roles}")
    return turns


def _turn(message: Any, name: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RecordError(f"field {name!r} must be text or a list of messages, got {shortened(message)}")
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ROLES:
        raise RecordError(f"field {name!r} must be text or a chat of {', '.join(ROLES)}, got the role {role!r:.50}")
    if message.get("tool_calls"):
        raise RecordError(f"field {name!r}: tool calls are not supported")
    return Turn(role, _content(message.get("content"), name, may_be_empty=role != "user"))


def _content(content: Any, name: str, may_be_empty: bool) -> str:
    if not isinstance(content, list):
        return text_of(content, name, may_be_empty)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise RecordError(f"field {name!r}: only content parts of type 'text' are supported, got {shortened(part)}")
        texts.append(text_of(part.get("text"), name, may_be_empty=True))
    return text_of("\n".join(texts), name, may_be_empty)


def own_system(prompt: Prompt) -> str | None:
    """The content of the prompt's own system turn; None without one."""
    return prompt[0].content if isinstance(prompt, tuple) and prompt[0].role == "system" else None


def own_prefill(prompt: Prompt) -> str | None:
    """The beginning of the response that the prompt ends in; None without one."""
    return prompt[-1].content if isinstance(prompt, tuple) and prompt[-1].role == "assistant" else None


def asked_turns(prompt: Prompt) -> Conversation:
    """The turns without the system's and without the beginning of the response; the last one is the user's."""
    if isinstance(prompt, str):
        return (Turn("user", prompt),)
    return prompt[own_system(prompt) is not None : len(prompt) - (own_prefill(prompt) is not None)]


def question_of(prompt: Prompt) -> str:
    """The text of the question: the user's turn, or all turns with their roles if there are several."""
    turns = asked_turns(prompt)
    return turns[0].content if len(turns) == 1 else "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def with_last_question(prompt: Conversation, text: str) -> Prompt:
    """The conversation with another text as the last turn of the user; plain text if that is all there is."""
    last = max(index for index, turn in enumerate(prompt) if turn.role == "user")
    turns = (*prompt[:last], replace(prompt[last], content=text), *prompt[last + 1 :])
    return text if len(turns) == 1 else turns

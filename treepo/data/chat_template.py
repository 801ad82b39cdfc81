"""A tokenizer's chat template applied to messages, with the tools that the model may call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from treepo.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Schema = Mapping[str, Any]
"""What `transformers.utils.get_json_schema` makes of a function: its name, what it does, its arguments."""

PROBE: Schema = {
    "type": "function",
    "function": {
        "name": "treepo0probe",
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "X."}}},
    },
}

TOOLS_TEXT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""How models learn of tools where the template does not tell them: in the words of Hermes and of Qwen's template."""


def with_tools_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Schema], role: str = "system"
) -> list[Mapping[str, Any]]:
    """The messages with the tools described at the end of the system message, or with `role` of a first one of user."""
    described = TOOLS_TEXT.format(tools="\n".join(json.dumps(tool) for tool in tools))
    if messages and messages[0]["role"] == role:
        first = messages[0]
        return [{**first, "content": f"{first['content']}\n\n{described}".strip()}, *messages[1:]]
    return [{"role": role, "content": described}, *messages]


@dataclass(frozen=True)
class ChatTemplate:
    """The tokenizer's template. variables: of the template. tools: those that the model may call."""

    tokenizer: PreTrainedTokenizerBase
    variables: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Schema] = ()

    def __call__(self, messages: Sequence[Mapping[str, Any]], is_asked: bool = True) -> str:
        """The messages as text, and with tools what the model needs to know of these.

        is_asked: whether the model's turn begins at its end. Raises SettingError if the template cannot be applied.
        """
        if self.tools and not self.writes_tools:
            role = "system" if self._takes_system else "user"
            return self._rendered(with_tools_text(messages, self.tools, role), is_asked, None)
        return self._rendered(messages, is_asked, list(self.tools) or None)

    @cached_property
    def writes_tools(self) -> bool:
        """Whether the template itself tells the model of tools."""
        try:
            return "treepo0probe" in self._rendered([{"role": "user", "content": "0"}], True, [PROBE])
        except SettingError:
            return False

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template writes a system message; Gemma's refuses one."""
        try:
            return "0system" in self._rendered(
                [{"role": r, "content": f"0{r}"} for r in ("system", "user")], True, None
            )
        except SettingError:
            return False

    def _rendered(self, messages: Sequence[Mapping[str, Any]], is_asked: bool, tools: Any) -> str:
        given = {} if tools is None else {"tools": [dict(tool) for tool in tools]}
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=is_asked,
                **given,
                **self.variables,
            )
        except SettingError:
            # The time limit of a prompt.
            raise
        # The template is a program that comes with the model; it and transformers' checks may raise anything.
        except Exception as error:
            first_line = str(error).strip().split("\n")[0] or type(error).__name__
            raise SettingError("model.path", f"the chat template cannot be applied: {first_line}") from error
        return str(rendered)

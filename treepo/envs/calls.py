"""Tool calls in what a model wrote, in the forms that chat templates teach."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treepo.data.chat_template import Schema
from treepo.utils.text import error_line

MAX_CALL_LEN = 100_000
"""Characters of a call that are read."""


@dataclass(frozen=True)
class ToolCall:
    """A call as it was written. name: of the tool, empty if it cannot be read. error: why it cannot be made."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


Parse = Callable[[str], list[ToolCall]]
"""From what a model wrote, marks of tool calls included, to the calls in it."""

Properties = Mapping[str, Mapping[str, Any]]
"""Of each tool, the schemas of its arguments by name."""

Reader = Callable[[re.Match[str], Properties], "list[ToolCall]"]


def parse_calls(text: str, schemas: Sequence[Schema] = ()) -> list[ToolCall]:
    """The calls in a turn; calls within reasoning that has ended are none.

    Reads JSON and XML in <tool_call> (Hermes, Qwen, GLM), <function=NAME> (Llama 3, Qwen3-Coder), [TOOL_CALLS]
    (Mistral), the marks of DeepSeek, gpt-oss and LFM2, and JSON or Python calls that are all of the text (Llama 3).
    schemas: of the tools, as `transformers.utils.get_json_schema` writes them. What is marked as a call and cannot be
    read is a call with an error. Texts are untrusted.
    """
    text = text.rpartition("</think>")[2]
    properties = {s["function"]["name"]: s["function"].get("parameters", {}).get("properties", {}) for s in schemas}
    for pattern, reader in MARKED:
        if matches := list(pattern.finditer(text)):
            return [call for match in matches for call in reader(match, properties)]
    return _unmarked(text.strip(), properties)


def _in_tool_call(match: re.Match[str], properties: Properties) -> list[ToolCall]:
    """JSON, or XML as Qwen3-Coder or GLM write it."""
    body = match["body"].strip()
    if function := FUNCTION.search(body):
        return _in_function(function, properties)
    if body.startswith(("{", "[")) or "<arg_key>" not in body:
        return _json_calls(body)
    name = body.partition("<arg_key>")[0].strip()
    return [ToolCall(name, _typed(GLM_ARGUMENT.findall(body), properties.get(name, {})))]


def _in_function(match: re.Match[str], properties: Properties) -> list[ToolCall]:
    name, body = match["name"].strip(), match["body"].strip()
    if body.startswith("{"):
        return [_named(name, body)]
    return [ToolCall(name, _typed(PARAMETER.findall(body), properties.get(name, {})))]


def _typed(found: Sequence[tuple[str, str]], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that were written as text: those that are declared as text stay, others are read as JSON."""
    arguments: dict[str, Any] = {}
    for key, value in found:
        name, text = key.strip(), value.strip("\n")
        declared = properties.get(name, {}).get("type")
        try:
            arguments[name] = text if declared == "string" else json.loads(text)
        except (ValueError, RecursionError):
            arguments[name] = text
    return arguments


def _in_mistral(match: re.Match[str], _: Properties) -> list[ToolCall]:
    body = match["body"].strip()
    if body.startswith(("[{", "{", "[ {")):
        return _json_calls(body)
    return list(_named_objects(body)) or [ToolCall("", error="it is not a name with a JSON object")]


def _in_deepseek(match: re.Match[str], __: Properties) -> list[ToolCall]:
    """name SEP json, or function SEP name and a fenced block."""
    before, _, after = match["body"].partition(DEEPSEEK_SEP)
    if before.strip() != "function":
        return [_named(before.strip(), after)]
    name, *rest = after.split("\n", 1)
    block = "".join(rest)
    return [_named(name.strip(), block.strip().removeprefix("```json").removesuffix("```"))]


def _with_name(match: re.Match[str], _: Properties) -> list[ToolCall]:
    return [_named(match["name"], match["body"])]


def _in_python(match: re.Match[str], _: Properties) -> list[ToolCall]:
    return _python_calls(match["body"].strip()) or [ToolCall("", error="it is not a list of Python calls")]


def _unmarked(text: str, properties: Properties) -> list[ToolCall]:
    """Calls that are all of the text: JSON, a name with JSON, or Python calls; only of tools that there are, since an
    answer may be JSON, too."""
    text = text.removeprefix("<|python_tag|>").strip()
    if text.startswith(("{", "[{")):
        calls = _json_calls(text)
        if any(call.error for call in calls):
            calls = [call for part in text.split("; ") for call in _json_calls(part)]
    else:
        begin = re.match(r"\[?([\w.-]+)", text)
        is_known = begin is not None and begin[1] in properties
        calls = (list(_named_objects(text)) or _python_calls(text)) if is_known else []
    return calls if all(call.name in properties for call in calls) else []


def _json_calls(text: str) -> list[ToolCall]:
    """One JSON object with name and arguments, or a list of them."""
    try:
        value = _load(text)
    except (ValueError, RecursionError) as error:
        return [ToolCall("", error=f"it is no JSON: {error_line(error)}")]
    return [_of_object(one) for one in (value if isinstance(value, list) else [value])]


def _of_object(value: Any) -> ToolCall:
    value = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall("", error="it has no name")
    arguments = value.get("arguments", value.get("parameters"))
    return _with_arguments(value["name"], {} if arguments is None else arguments)


def _named(name: str, text: str) -> ToolCall:
    """A call whose name stands apart from the JSON of its arguments."""
    try:
        return _with_arguments(name, _load(text) if text.strip() else {})
    except (ValueError, RecursionError) as error:
        return ToolCall(name, error=f"its arguments are no JSON: {error_line(error)}")


def _with_arguments(name: str, arguments: Any) -> ToolCall:
    if isinstance(arguments, str):
        return _named(name, arguments) if arguments.lstrip().startswith("{") else ToolCall(name, error=NO_OBJECT)
    return ToolCall(name, arguments) if isinstance(arguments, dict) else ToolCall(name, error=NO_OBJECT)


def _load(text: str) -> Any:
    # Not strict: code in arguments is often written with its line breaks.
    return json.loads(text.strip()[:MAX_CALL_LEN], strict=False)


def _named_objects(text: str) -> Iterator[ToolCall]:
    """Names, each with a JSON object behind it, until something else is written."""
    decoder = json.JSONDecoder(strict=False)
    rest = text[:MAX_CALL_LEN]
    while match := NAMED.match(rest):
        try:
            arguments, end = decoder.raw_decode(rest, match.end() - 1)
        except (ValueError, RecursionError) as error:
            yield ToolCall(match["name"], error=f"its arguments are no JSON: {error_line(error)}")
            return
        yield ToolCall(match["name"], arguments)
        rest = rest[end:].lstrip().removeprefix("[TOOL_CALLS]").lstrip()


def _python_calls(text: str) -> list[ToolCall]:
    """A list of calls with literal arguments by name, as Python writes it; empty for anything else."""
    _ignore_parser_warnings()
    try:
        body = ast.parse(text[:MAX_CALL_LEN], CALL_FILE, mode="eval").body
        calls = body.elts if isinstance(body, ast.List) else [body]
        return [_python_call(one) for one in calls]
    # What the parser raises for what is no Python, and for what is nested too deeply.
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []


def _ignore_parser_warnings() -> None:
    """Let Python's parser say nothing of calls, such as that `\\d` is no escape: a model writes what it likes.

    A filter for this one name that stays: `catch_warnings` would change those of other threads.
    """
    wanted = ("ignore", None, Warning, re.compile(CALL_FILE), 0)
    if wanted not in warnings.filters[:1]:
        warnings.filterwarnings("ignore", module=CALL_FILE)


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("it is no call with arguments by name")
    return ToolCall(node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords})


BAR = "\uff5c"
DEEPSEEK_BEGIN, DEEPSEEK_END, DEEPSEEK_SEP = (
    f"<{BAR}{name}{BAR}>" for name in ("tool▁call▁begin", "tool▁call▁end", "tool▁sep")
)
CALL_FILE = "<tool call>"
"""What Python's parser takes for the file that a call is written in."""

NO_OBJECT = "its arguments are no JSON object"
NAMED = re.compile(r"(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\w*)?\s*(?:\[ARGS\])?\s*\{")
FUNCTION = re.compile(r"<function=(?P<name>[^>\n]+)>(?P<body>.*?)(?:</function>|\Z)", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)(?:</parameter>|\Z)", re.DOTALL)
GLM_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)(?:</arg_value>|\Z)", re.DOTALL)

MARKED: tuple[tuple[re.Pattern[str], Reader], ...] = (
    (re.compile(r"<tool_call>(?P<body>.*?)(?:</tool_call>|\Z)", re.DOTALL), _in_tool_call),
    (FUNCTION, _in_function),
    (re.compile(r"\[TOOL_CALLS\](?P<body>.*)", re.DOTALL), _in_mistral),
    (re.compile(rf"{DEEPSEEK_BEGIN}(?P<body>.*?)(?:{DEEPSEEK_END}|\Z)", re.DOTALL), _in_deepseek),
    (
        re.compile(r"to=functions\.(?P<name>[\w-]+)[^{]*?<\|message\|>(?P<body>.*?)(?:<\|call\|>|\Z)", re.DOTALL),
        _with_name,
    ),
    (re.compile(r"<\|tool_call_start\|>(?P<body>.*?)(?:<\|tool_call_end\|>|\Z)", re.DOTALL), _in_python),
)
"""What marks calls, and who reads them; the first that is found counts."""

"""Tool calls as chat templates have them written."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.envs.calls import parse_calls

BAR = "\uff5c"
SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "...",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
    for name in ("forecast", "add")
]
FORECAST = ("forecast", {"city": "75001", "days": 3}, "")
JSON = '{"name": "forecast", "arguments": {"city": "75001", "days": 3}}'

WRITTEN = {
    "Hermes, Qwen 2.5 and 3": f"Let me see.\n<tool_call>\n{JSON}\n</tool_call>",
    "one that is not closed": f"<tool_call>\n{JSON}\n",
    "after reasoning": f"<think>a\n<tool_call>no</tool_call></think>\n\n<tool_call>\n{JSON}\n</tool_call>",
    "Qwen3-Coder, Qwen3.5": "<tool_call>\n<function=forecast>\n<parameter=city>\n75001\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "GLM 4.5": "<tool_call>forecast\n<arg_key>city</arg_key>\n<arg_value>75001</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "Llama 3.1": '<|python_tag|>{"name": "forecast", "parameters": {"city": "75001", "days": 3}}',
    "Llama 3, without its mark": '{"type": "function", "name": "forecast", "parameters": {"city": "75001", "days": 3}}',
    "Llama 3, user-defined": '<function=forecast>{"city": "75001", "days": 3}</function>',
    "Llama 4": '[forecast(city="75001", days=3)]',
    "Mistral v3": f"[TOOL_CALLS] [{JSON}]",
    "Mistral v11": '[TOOL_CALLS]forecast[ARGS]{"city": "75001", "days": 3}',
    "Mistral v11, without marks": 'forecast{"city": "75001", "days": 3}',
    "DeepSeek V3": f"<{BAR}tool▁calls▁begin{BAR}><{BAR}tool▁call▁begin{BAR}>function<{BAR}tool▁sep{BAR}>forecast\n"
    f'```json\n{{"city": "75001", "days": 3}}\n```<{BAR}tool▁call▁end{BAR}><{BAR}tool▁calls▁end{BAR}>',
    "DeepSeek V3.1": f"<{BAR}tool▁call▁begin{BAR}>forecast<{BAR}tool▁sep{BAR}>"
    f'{{"city": "75001", "days": 3}}<{BAR}tool▁call▁end{BAR}>',
    "gpt-oss": '<|channel|>commentary to=functions.forecast <|constrain|>json<|message|>{"city": "75001", "days": 3}',
    "LFM2": "<|tool_call_start|>[forecast(city='75001', days=3)]<|tool_call_end|>",
    "arguments as a text": '<tool_call>{"name": "forecast", '
    r'"arguments": "{\"city\": \"75001\", \"days\": 3}"}</tool_call>',
    "OpenAI": f'<tool_call>{{"type": "function", "function": {JSON}}}</tool_call>',
}


def read(text: str) -> list[tuple]:
    return [(call.name, dict(call.arguments), call.error) for call in parse_calls(text, SCHEMAS)]


@pytest.mark.parametrize("form", WRITTEN)
def test_calls_are_read_in_all_forms(form):
    assert read(WRITTEN[form]) == [FORECAST]


def test_several_calls():
    other = ("add", {}, "")
    for text in (
        f'<tool_call>{JSON}</tool_call>\n<tool_call>{{"name": "add"}}</tool_call>',
        f'[TOOL_CALLS] [{JSON}, {{"name": "add", "arguments": {{}}}}]',
        '[TOOL_CALLS]forecast[ARGS]{"city": "75001", "days": 3}[TOOL_CALLS]add[ARGS]{}',
        '{"name": "forecast", "parameters": {"city": "75001", "days": 3}}; {"name": "add", "parameters": {}}',
        "[forecast(city='75001', days=3), add()]",
    ):
        assert read(text) == [FORECAST, other], text


@pytest.mark.parametrize(
    "text", ["It is 4.", "", '{"answer": 4}', '[{"name": "Ada"}]', "print(city=3)", "f(x) = 3", "add", "<think>add"]
)
def test_what_is_no_call(text):
    """An answer that is JSON or looks like a function ends the episode; it is not answered with an error."""
    assert parse_calls(text, SCHEMAS) == []


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ('<tool_call>{"name": "add", "argu', "", "it is no JSON"),
        ("<tool_call>add 3</tool_call>", "", "it is no JSON"),
        ('<tool_call>{"arguments": {}}</tool_call>', "", "it has no name"),
        ('<tool_call>{"name": "add", "arguments": [3]}</tool_call>', "add", "its arguments are no JSON object"),
        ('[TOOL_CALLS]add[ARGS]{"a": ', "add", "its arguments are no JSON"),
        ("<tool_call>" + "[" * 100_000, "", "it is no JSON"),
        ("<|tool_call_start|>no<|tool_call_end|>", "", "it is not a list of Python calls"),
    ],
)
def test_calls_that_cannot_be_read_say_why(text, name, error):
    (call,) = parse_calls(text, SCHEMAS)
    assert call.name == name and call.error.startswith(error)


@pytest.mark.parametrize(
    ("written", "value"), [(r"'\d+'", r"\d+"), (r"'\777'", "\u01ff"), ("3in", None), ("0x1for x in y", None)]
)
def test_python_says_nothing_of_what_a_model_wrote(written, value):
    """Its parser printed SyntaxWarnings about calls, and where warnings are errors the call was none."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        calls = read(f"add(city={written})")
    assert calls == ([("add", {"city": value}, "")] if value else []) and not said


MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<function=", ">", "{", "}", "[", "(", '"name"', ":", "add")


@given(st.lists(st.sampled_from([*MARKS, "\\", "'", "1", "\n"]), max_size=12).map("".join))
@settings(max_examples=30)
def test_no_text_is_too_strange(text):
    for call in parse_calls(text, SCHEMAS):
        assert call.error or (call.name and isinstance(call.arguments, dict))

"""Chats in records, and the columns of records."""

import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data.columns import as_columns
from treepo.data.conversations import Turn, own_prefill, own_system
from treepo.data.datasets import load_datasets
from treepo.data.formats import RecordFormat
from treepo.data.readers import read_records
from treepo.data.sources import PRESETS, parse_source
from treepo.errors import RecordError

SYSTEM, FIRST, REPLY, LAST, BEGUN = (
    {"role": "system", "content": "Think."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2+2?"},
    {"role": "assistant", "content": "It is "},
)


def read(messages):
    form, record = RecordFormat(), {"prompt": messages}
    return form.prompt(record), form.question(record)


def turns(*messages):
    return tuple(Turn(m["role"], m["content"]) for m in messages)


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([SYSTEM, FIRST], "1+1?"),
        ([SYSTEM, FIRST, BEGUN], "1+1?"),
        ([FIRST, BEGUN], "1+1?"),
        ([FIRST, REPLY, LAST], "user: 1+1?\n\nassistant: 2\n\nuser: And 2+2?"),
        ([SYSTEM, FIRST, REPLY, LAST, BEGUN], "user: 1+1?\n\nassistant: 2\n\nuser: And 2+2?"),
        ([FIRST, LAST], "user: 1+1?\n\nuser: And 2+2?"),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_every_turn_of_a_chat_is_kept(messages, question, as_text):
    """A system turn was dropped, and more than one turn of the user refused; as JSON text it was one long question."""
    assert read(json.dumps(messages) if as_text else messages) == (turns(*messages), question)


@pytest.mark.parametrize("value", [[FIRST], json.dumps([FIRST]), f" {json.dumps([FIRST], indent=2)}\n"])
def test_a_chat_of_one_turn_is_its_text(value):
    assert read(value) == ("1+1?", "1+1?")


@pytest.mark.parametrize("text", ["[1, 2] is a list", "[]", '["role"]', "[{", '{"role": "user"}', "[{x}] = ?"])
def test_text_in_brackets_is_no_chat(text):
    assert read(text) == (text, text)


@pytest.mark.parametrize("text", [str([FIRST]), json.dumps([FIRST])[:-1], '[{"role": "user", "role": "user"}]'])
def test_text_that_looks_like_a_chat_and_is_not_json_is_refused(text):
    """Python's own notation, as pandas writes a column of chats to CSV, would be one long question."""
    with pytest.raises(RecordError, match="field 'prompt' looks like a chat, but cannot be read"):
        read(text)


def test_a_system_turn_may_be_empty_and_a_developer_is_one():
    """An empty one says that the template's own default is not wanted."""
    prompt, _ = read([{"role": "system", "content": ""}, FIRST])
    assert own_system(prompt) == ""
    prompt, _ = read([{"role": "developer", "content": "Think."}, FIRST])
    assert own_system(prompt) == "Think." and own_prefill(prompt) is None


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": "1+1?", "image": None}, {"type": "text", "text": "Only the number."}]
    assert read([{"role": "user", "content": parts}])[0] == "1+1?\nOnly the number."
    assert read([SYSTEM, {"role": "user", "content": parts}])[0][1].content == "1+1?\nOnly the number."


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([FIRST, SYSTEM], "a system turn must be the first"),
        ([FIRST, REPLY, BEGUN], "a last turn of the assistant must follow one of the user"),
        ([SYSTEM], "with a turn of the user"),
        ([{"role": "tool", "content": "x"}, FIRST], "got the role 'tool'"),
        ([FIRST, {"role": "assistant", "content": None, "tool_calls": [{}]}, LAST], "tool calls are not supported"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "only content parts of type 'text'"),
        ([{"role": "user", "content": ["text"]}], "only content parts of type 'text'"),
        ([{"role": "user", "content": [{"type": "text", "text": " "}]}], "field 'prompt' is empty"),
        ([{"role": "user", "content": []}], "field 'prompt' is empty"),
        ([{"role": "system", "content": "\ud800"}, FIRST], "half a surrogate pair"),
    ],
)
def test_what_is_no_conversation_is_named(messages, reason):
    with pytest.raises(RecordError, match=f"field 'prompt'.* {reason}|{reason}"):
        read(messages)


def test_prefix_and_context_belong_to_the_last_question():
    form = RecordFormat(context_field="context", prefix="Solve: ")
    record = {"prompt": [SYSTEM, FIRST, REPLY, {"role": "user", "content": "Solve: 3?"}], "context": "Given 3."}
    assert form.prompt(record) == (*turns(SYSTEM, FIRST, REPLY), Turn("user", "Given 3.\n3?"))
    dapo = PRESETS["dapo17k"].form
    assert dapo.prompt({"prompt": [{"role": "user", "content": f"{dapo.prefix}1?{dapo.suffix}"}]}) == "1?"


def test_the_same_question_with_another_beginning_of_the_response_is_another_problem(tmp_path):
    """Another system turn, as before, is not."""
    chats = [[FIRST], [SYSTEM, FIRST], [FIRST, BEGUN], [FIRST, BEGUN | {"content": "So "}], [SYSTEM, FIRST, BEGUN]]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": chat, "answer": "2"}) + "\n" for chat in chats))
    loaded = load_datasets([str(path)], RecordFormat(), lambda _: [1], 10)
    assert [p.id for p in loaded.datasets[0].problems] == ["p.jsonl:1", "p.jsonl:3", "p.jsonl:4"]
    assert {p.prompt for p in loaded.datasets[0].problems} == {"1+1?"}


def test_chats_of_every_kind_of_file_are_the_same(tmp_path):
    messages = [SYSTEM, FIRST, BEGUN]
    row = {"prompt": messages, "answer": "2"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    quoted = json.dumps(messages).replace('"', '""')
    (tmp_path / "c.csv").write_text(f'prompt,answer\n"{quoted}",2\n')
    seen = []
    for name in ("a.json", "b.parquet", "c.csv"):
        load_datasets([str(tmp_path / name)], RecordFormat(), lambda prompt: seen.append(prompt) or [1], 10)
    assert seen == [turns(*messages)] * 3


def test_columns_are_what_json_can_hold(tmp_path):
    row = {
        "int": 3,
        "float": 1.5,
        "nan": math.nan,
        "inf": -math.inf,
        "flag": True,
        "none": None,
        "decimal": Decimal("1.50"),
        "date": date(2024, 2, 29),
        "datetime": datetime(2024, 2, 29, 12, 30),
        "time": time(1, 2),
        "duration": timedelta(seconds=1.5),
        "bytes": b"\xff\0",
        "nested": {"list": [1, {"x": Decimal("2")}], "chat": [SYSTEM]},
    }
    expected = row | {
        "nan": None,
        "inf": None,
        "decimal": "1.50",
        "date": "2024-02-29",
        "datetime": "2024-02-29T12:30:00",
        "time": "01:02:00",
        "duration": 1.5,
        "bytes": "/wA=",
        "nested": {"list": [1, {"x": "2"}], "chat": [SYSTEM]},
    }
    assert as_columns(row) == expected
    assert json.loads(json.dumps(as_columns(row), allow_nan=False)) == expected
    flat = {key: value for key, value in row.items() if key != "nested"}
    pq.write_table(pa.Table.from_pylist([flat]), tmp_path / "p.parquet")
    ((_, record),) = read_records(parse_source(str(tmp_path / "p.parquet")), "p")
    assert as_columns(record) == {key: value for key, value in expected.items() if key != "nested"}
    assert as_columns({1: (1, 2)}) == {"1": [1, 2]}  # pyright: ignore[reportArgumentType]
    with pytest.raises(RecordError, match="field 'x' holds a set"):
        as_columns({"x": {1}})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON_VALUES))
def test_columns_of_json_are_numbers_though_answers_are_read_as_written(tmp_path_factory, columns):
    """As numbers are written, a column 3 was the text '3'."""
    path = tmp_path_factory.mktemp("f") / "p.jsonl"
    path.write_text(json.dumps(columns | {"prompt": "?", "answer": 1.50}) + "\n")
    (problem,) = load_datasets([str(path)], RecordFormat(), lambda _: [1], 10).datasets[0].problems
    assert problem.columns == columns | {"prompt": "?", "answer": 1.5}
    assert problem.ground_truth == "1.5"


def test_numbers_that_python_cannot_hold_stay_text(tmp_path):
    digits = "9" * 5000
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "?", "answer": 1.50, "big": {digits}, "huge": 1e999}}\n')
    (problem,) = load_datasets([str(tmp_path / "p.jsonl")], RecordFormat(), lambda _: [1], 10).datasets[0].problems
    assert problem.ground_truth == "1.50"
    assert problem.columns == {"prompt": "?", "answer": 1.5, "big": digits, "huge": "1e999"}

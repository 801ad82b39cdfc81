"""Records from files and folders."""

import csv
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from treepo.data.datasets import load_datasets
from treepo.data.formats import RecordFormat
from treepo.data.readers import read_records
from treepo.data.sources import parse_source

GOOD = '{"prompt": "a", "answer": "1"}\n'


def encode(text: str) -> list[int]:
    return list(text.encode())


def read(path, form=None, setting="data.train"):
    return load_datasets([str(path)], form or RecordFormat(), encode, 1000, setting).datasets[0].problems


def records(text: str):
    source = parse_source(text)
    return list(read_records(source, "label"))


def test_fields_are_chosen_and_numbers_taken_as_written(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"q": "1+1?", "a": 2}\n{"q": "half?", "a": 0.50, "more": [1]}\n')
    problems = read(path, RecordFormat("q", "a"))
    assert [(p.id, p.prompt, p.ground_truth) for p in problems] == [
        ("p.jsonl:1", "1+1?", "2"),
        ("p.jsonl:2", "half?", "0.50"),
    ]
    assert problems[0].prompt_ids == tuple(b"1+1?")


def test_separators_inside_json_strings_do_not_end_a_line(tmp_path):
    """str.splitlines also splits at U+2028, which JSON allows inside strings."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b", "answer": "1"}\n{"prompt": "c", "answer": "2"}', encoding="utf-8")
    assert [p.prompt for p in read(path)] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        (GOOD + "{'prompt': 1}\n", "p.jsonl:2: not JSON"),
        (GOOD + "[1]\n", "p.jsonl:2: not a JSON object"),
        (
            GOOD + '{"question": "a", "answer": "1"}\n',
            r"p.jsonl:2: no field 'prompt'; there are \['answer', 'question'\]",
        ),
        (GOOD + '{"prompt": "b", "answer": null}\n', "p.jsonl:2: field 'answer' must be text or a number, got None"),
        (GOOD + '{"prompt": "b", "answer": true}\n', "p.jsonl:2: field 'answer' must be text or a number, got True"),
        (GOOD + '{"prompt": " ", "answer": "1"}\n', "p.jsonl:2: field 'prompt' is empty"),
        (GOOD + '{"prompt": "b", "answer": NaN}\n', "p.jsonl:2: not JSON: NaN is not a JSON number"),
        (GOOD + '{"prompt": "\\ud800", "answer": 1}\n', "p.jsonl:2: field 'prompt' holds half a surrogate pair"),
        (GOOD + "[" * 100_000 + "\n", "p.jsonl:2: not JSON"),
    ],
)
def test_a_bad_line_is_named(text, message, tmp_path):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(ValueError, match=f"data.train: .*{message}") as caught:
        read(tmp_path / "p.jsonl")
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9", "answer": 1}')
    (tmp_path / "latin.csv").write_bytes(b"prompt,answer\n\xe9,1\n")
    (tmp_path / "no.parquet").write_bytes(b"PAR2")
    (tmp_path / "notes.txt").write_text("{}")
    (tmp_path / "folder").mkdir()
    for name in ("folder", "none.jsonl", "latin.csv", "no.parquet", "notes.txt"):
        with pytest.raises(ValueError, match=f"data.train: cannot read '{tmp_path / name}'"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="data.train: latin.jsonl:1: not UTF-8"):
        read(tmp_path / "latin.jsonl")


def test_the_same_records_from_every_kind_of_file(tmp_path):
    """Texts with commas, quotes, line breaks and other letters come out of all of them as they went in."""
    rows = [{"prompt": 'a, "b"\nc é', "answer": "1"}, {"prompt": "x\u2028y\r\nz", "answer": "-2"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "c.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    with (tmp_path / "e.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["prompt", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("a.jsonl", "b.json", "c.json", "d.parquet", "e.csv"):
        assert [record for _, record in records(str(tmp_path / name))] == rows, name
        assert [(p.prompt, p.ground_truth) for p in read(tmp_path / name)] == [(r["prompt"], r["answer"]) for r in rows]


def test_rows_are_counted_across_the_batches_of_a_parquet_file(tmp_path):
    table = pa.table({"prompt": [f"q{i}" for i in range(2500)], "answer": list(range(2500))})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=700)
    problems = read(tmp_path / "p.parquet")
    assert [(p.id, p.ground_truth) for p in problems[1023:1025]] == [
        ("p.parquet: row 1024", "1023"),
        ("p.parquet: row 1025", "1024"),
    ]
    assert len(problems) == 2500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "prompt,answer\n", "'.*p.csv' is empty"),
        ("p.csv", "prompt,answer\na,1\nb\n", "p.csv: row 2: not as many cells"),
        ("p.csv", "prompt,answer\na,1\nb,1,2\n", "p.csv: row 2: not as many cells"),
        ("p.csv", 'prompt,answer\n"a,1\n', "cannot read .*p.csv"),
        ("p.csv", "question,answer\na,1\n", r"p.csv: row 1: no field 'prompt'; there are \['answer', 'question'\]"),
        ("p.json", "[]", "'.*p.json' is empty"),
        ("p.json", "[1]", "p.json: row 1: not a JSON object"),
        ("p.json", '[{"prompt": "a"', "p.json: not JSON"),
    ],
)
def test_a_bad_row_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"data.train: {message}"):
        read(tmp_path / name)


def test_text_of_parquet_that_is_no_utf8_is_told_with_its_file(tmp_path):
    """The message began with the codec and named no file."""
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9")])
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": broken, "answer": ["1"]}), path)
    with pytest.raises(ValueError, match=f"data.train: cannot read '{path}': 'utf-8' codec can't decode"):
        read(path)


@pytest.mark.parametrize(
    ("value", "written"),
    [("27.00", "27.00"), ("-3", "-3"), ("0.0000000001", "0.0000000001"), ("0E-9", "0.000000000"), ("1E+3", "1000")],
)
def test_decimals_of_parquet_are_numbers(value, written, tmp_path):
    """They were refused, as neither text nor number; each has the places that its column has, and no exponent."""
    table = pa.table({"prompt": ["a"], "answer": [Decimal(value)]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert read(tmp_path / "p.parquet")[0].ground_truth == written


@pytest.mark.parametrize("name", ["X.JSONL", "x.Json", "X.CSV"])
def test_the_end_of_a_name_may_be_in_capitals(name, tmp_path):
    """It was refused, or in a folder passed over; one that is not there was taken for a set of the hub."""
    (tmp_path / name).write_text("prompt,answer\na,1\n" if name.endswith("CSV") else GOOD)
    assert [p.ground_truth for p in read(tmp_path / name)] == [p.ground_truth for p in read(tmp_path)] == ["1"]
    with pytest.raises(ValueError, match=f"cannot read 'no/{name}': no such file or folder$"):
        parse_source(f"no/{name}")


def test_numbers_of_parquet_are_written_as_python_writes_them(tmp_path):
    pq.write_table(pa.table({"prompt": ["a", "b"], "answer": [27.0, float("nan")]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="p.parquet: row 2: field 'answer' must be a finite number, got nan"):
        read(tmp_path / "p.parquet")
    pq.write_table(pa.table({"prompt": ["a"], "answer": [27.0]}), tmp_path / "p.parquet")
    assert read(tmp_path / "p.parquet")[0].ground_truth == "27.0"


def test_a_folder_is_the_files_of_its_split(tmp_path):
    """Splits are words in the names of files or folders, as in snapshots of the hub; hidden files are no data."""
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "gsm8k_test", ".cache/train"):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"prompt": name, "answer": 1}) + "\n")
    asked = [(place, record["prompt"]) for place, record in records(f"{tmp_path}@train")]
    assert asked == [(f"label/data/train-0000{i}-of-00002.jsonl:1", f"data/train-0000{i}-of-00002") for i in (0, 1)]
    assert [r["prompt"] for _, r in records(f"{tmp_path}@test")] == ["gsm8k_test"]
    with pytest.raises(ValueError, match=r"several splits: name one of \['test', 'train'\] after @"):
        records(str(tmp_path))
    with pytest.raises(ValueError, match=r"no split 'dev' in .*; there are \['test', 'train'\]"):
        records(f"{tmp_path}@dev")


def test_a_folder_without_splits_is_all_its_files(tmp_path):
    """`latest` and `training` hold the letters of a split's name and are none."""
    for name in ("latest", "training"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "answer": 1}) + "\n")
    assert [r["prompt"] for _, r in records(str(tmp_path))] == ["latest", "training"]

"""Damaged records and files: each is named, and records that are damaged alone can be passed over."""

import csv
import gzip
import json
import time
import zlib
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data import files
from treepo.data.datasets import LoadedDatasets, load_datasets
from treepo.data.formats import RecordFormat
from treepo.data.readers import read_records
from treepo.data.sources import parse_source
from treepo.errors import SettingError

GOOD = '{"prompt": "a", "answer": "1"}'
OTHER = '{"prompt": "b", "answer": "2"}'


def load(path, form: RecordFormat | None = None, **options) -> LoadedDatasets:
    return load_datasets([str(path)], form or RecordFormat(), lambda text: list(str(text).encode()), 1000, **options)


def prompts(loaded: LoadedDatasets) -> list[str]:
    return [problem.prompt for dataset in loaded.datasets for problem in dataset.problems]


def write(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


BAD_LINES = {
    "not JSON": "{'prompt': 1}",
    "not JSON: more after the value": GOOD + GOOD,
    "not a JSON object": "[1]",
    "key 'prompt' is named twice": '{"prompt": "x", "answer": "1", "prompt": "y"}',
    "key 'k' is named twice": '{"prompt": "x", "answer": "1", "more": [{"k": 1, "k": 2}]}',
    "NaN is not a JSON number": '{"prompt": "x", "answer": NaN}',
    "no field 'answer'": '{"prompt": "x"}',
    "field 'prompt' is empty": '{"prompt": " ", "answer": "1"}',
    "must be text or a number": '{"prompt": "x", "answer": null}',
    "nested more than": '{"prompt": "x", "answer": "1", "deep": ' + "[" * 60 + "]" * 60 + "}",
    "half a surrogate pair": '{"prompt": "\\ud800", "answer": "1"}',
    "not UTF-8": b'{"prompt": "\xe9", "answer": "1"}',
}


@pytest.mark.parametrize(("message", "line"), BAD_LINES.items(), ids=BAD_LINES)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_bad_line_ends_the_run_or_is_skipped_counted_and_named(message, line, suffix, tmp_path):
    lines = b"\n".join([GOOD.encode(), line if isinstance(line, bytes) else line.encode(), OTHER.encode()])
    path = write(tmp_path / f"p{suffix}", gzip.compress(lines) if suffix.endswith("gz") else lines)
    with pytest.raises(SettingError, match=f"^data.train: p{suffix}:2: .*{message}"):
        load(path)
    skipped = load(path, skip_bad=True)
    assert prompts(skipped) == ["a", "b"]
    (named,) = skipped.bad_records
    assert named.startswith(f"p{suffix}:2: ") and message in named


@given(
    st.lists(st.sampled_from([GOOD, OTHER, *(line for line in BAD_LINES.values() if isinstance(line, str)), "", " "]))
)
def test_what_is_skipped_and_what_is_kept_are_all_lines_that_are_not_blank(tmp_path_factory, lines):
    path = write(tmp_path_factory.mktemp("f") / "p.jsonl", "\n".join(lines))
    num_good, num_filled = lines.count(GOOD) + lines.count(OTHER), sum(bool(line.strip()) for line in lines)
    if not num_good:
        with pytest.raises(SettingError):
            load(path, skip_bad=True)
        return
    loaded = load(path, skip_bad=True)
    assert len(prompts(loaded)) + loaded.num_duplicates == num_good
    assert len(loaded.bad_records) == num_filled - num_good


def test_blank_lines_pass(tmp_path):
    """An empty line in the middle of a file was an error."""
    path = write(tmp_path / "p.jsonl", f"\ufeff\n{GOOD}\r\n\n   \n{OTHER}\n\n")
    assert [(p.id, p.prompt) for p in load(path).datasets[0].problems] == [("p.jsonl:2", "a"), ("p.jsonl:5", "b")]
    path = write(tmp_path / "p.csv", "\n\nprompt,answer\n\na,1\n  \nb,2\n\n")
    assert prompts(load(path)) == ["a", "b"]


def test_a_list_whose_items_are_damaged(tmp_path):
    path = write(tmp_path / "p.json", f'[{GOOD}, {{"prompt": "x", "prompt": "y", "answer": 1}}, 3, {OTHER}]')
    with pytest.raises(SettingError, match="p.json: row 2: key 'prompt' is named twice"):
        load(path)
    skipped = load(path, skip_bad=True)
    assert prompts(skipped) == ["a", "b"]
    assert skipped.bad_records == (
        "p.json: row 2: key 'prompt' is named twice",
        "p.json: row 3: not a JSON object",
    )


@pytest.mark.parametrize(
    "text", [f"[{GOOD} {OTHER}]", f"[{GOOD},]", f"[{GOOD}", f"[{GOOD}] x", f"[{GOOD},,{OTHER}]", "["]
)
@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_list_that_is_not_json_is_no_list_of_records(text, skip_bad, tmp_path):
    with pytest.raises(SettingError, match="^data.train: p.json: not JSON"):
        load(write(tmp_path / "p.json", text), skip_bad=skip_bad)


@given(st.recursive(st.none() | st.booleans() | st.text() | st.integers(-9, 9), st.lists))
def test_items_of_lists_are_those_that_python_reads(tmp_path_factory, value):
    items = [{"n": index, "value": value} for index in range(2)]
    path = write(tmp_path_factory.mktemp("f") / "p.json", json.dumps(items, indent=1))
    read = [record for _, record in read_records(parse_source(str(path)), "p")]
    # Numbers are texts, which a dump writes in quotes.
    assert read == json.loads(json.dumps(items), parse_int=str)


def test_a_row_of_csv_with_other_cells_is_skipped(tmp_path):
    path = write(tmp_path / "p.csv", "prompt,answer\na,1\nx\ny,1,2\nb,2\n")
    with pytest.raises(SettingError, match="p.csv: row 2: not as many cells as there are field names"):
        load(path)
    skipped = load(path, skip_bad=True)
    assert prompts(skipped) == ["a", "b"] and len(skipped.bad_records) == 2


def test_cells_of_any_length(tmp_path):
    """csv's limit of 131072 characters ended the run; it stays what it is for others."""
    before = csv.field_size_limit(1000)
    path = write(tmp_path / "p.csv", f'prompt,answer,more\n"{"q" * 500_000}",1,"{"m" * 2_000_000}"\nb,2,\n')
    assert [len(text) for text in prompts(load_datasets([str(path)], RecordFormat(), lambda _: [1], 10))] == [
        500_000,
        1,
    ]
    records = read_records(parse_source(str(path)), "p")
    next(records)
    assert csv.field_size_limit(before) == 1000


def test_a_column_that_is_named_twice_is_an_error_in_every_kind_of_file(tmp_path):
    """The last one won, silently."""
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["1"]), pa.array(["2"])], ["prompt", "answer", "answer"])
    nested = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["k", "k"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(str(tmp_path / "c.arrow"), pa.schema({"prompt": nested.type})) as writer:
        writer.write_table(pa.table({"prompt": nested}))
    write(tmp_path / "d.csv", "prompt,answer,answer\na,1,2\n")
    write(tmp_path / "e.tsv", "prompt\tanswer\tanswer\na\t1\t2\n")
    for name in ("a.parquet", "b.arrow", "c.arrow", "d.csv", "e.tsv"):
        for skip_bad in (True, False):
            with pytest.raises(SettingError, match=f"cannot read '.*{name}': column '(answer|k)' is named twice"):
                load(tmp_path / name, skip_bad=skip_bad)


ROWS = [{"prompt": 'a, "b"\nc\té', "answer": "1"}, {"prompt": "x\u2028y", "answer": "-2"}]


def write_all(folder) -> list[str]:
    """The same rows in every kind of file that is new."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    write(folder / "a.jsonl.gz", gzip.compress(lines[:40]) + gzip.compress(lines[40:]))
    write(folder / "b.JSON.GZ", gzip.compress(json.dumps(ROWS).encode()))
    for name, delimiter in (("c.tsv", "\t"), ("d.csv.gz", ","), ("e.tsv.gz", "\t")):
        with (folder / "plain").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["prompt", "answer"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
        content = (folder / "plain").read_bytes()
        write(folder / name, gzip.compress(content) if name.endswith("gz") else content)
    (folder / "plain").unlink()
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(folder / "f.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    with pa.ipc.new_stream(str(folder / "g.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return ["a.jsonl.gz", "b.JSON.GZ", "c.tsv", "d.csv.gz", "e.tsv.gz", "f.arrow", "g.arrow"]


def test_packed_files_tables_of_tabs_and_arrow_hold_the_same_records(tmp_path):
    names = write_all(tmp_path)
    for name in names:
        assert [record for _, record in read_records(parse_source(str(tmp_path / name)), "l")] == ROWS, name
        assert load(tmp_path / name).datasets[0].name == name[0]
    read = [place for place, _ in read_records(parse_source(str(tmp_path)), "l")]
    assert read[0] == "l/a.jsonl.gz:1"
    assert len(read) == len(names) * len(ROWS)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "b.JSON.GZ", "d.csv.gz", "f.arrow", "g.arrow"])
@given(st.data())
def test_a_file_that_is_cut_or_changed_is_named_or_read(name, tmp_path_factory, data):
    """Whatever bytes are missing or changed: one line that names the file, never another exception.

    An offset of an Arrow file that points outside it was a SystemError, and might have read anything.
    """
    folder = tmp_path_factory.mktemp("f")
    write_all(folder)
    content = bytearray((folder / name).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = write(folder / name, bytes(content))
    with suppress(SettingError):
        load(path, skip_bad=True)


def test_a_cut_gzip_file_is_an_error_though_its_first_lines_can_be_read(tmp_path):
    packed = gzip.compress(
        "".join(f'{{"prompt": "{i}", "answer": "{zlib.crc32(b"%d" % i)}"}}\n' for i in range(999)).encode()
    )
    for skip_bad in (True, False):
        with pytest.raises(SettingError, match=r"cannot read '.*p.jsonl.gz': Compressed file ended"):
            load(write(tmp_path / "p.jsonl.gz", packed[:-100]), skip_bad=skip_bad)


def test_what_is_no_fault_of_a_record_is_never_skipped(tmp_path):
    """A file that is not there or of no known kind, and records all of which are bad."""
    write(tmp_path / "notes.txt", GOOD)
    write(tmp_path / "bad.jsonl", "1\n2\n")
    for name, message in (
        ("none.jsonl", "no such file"),
        ("notes.txt", "its name must end in"),
        ("bad.jsonl", "bad.jsonl:1: not a"),
    ):
        with pytest.raises(SettingError, match=message):
            load(tmp_path / name, skip_bad=True)


def test_repeats_are_kept_where_asked_with_ids_of_their_own(tmp_path):
    """Evaluation sets lost repeated questions, so that a figure was over fewer questions than the set has."""
    lines = [
        json.dumps({"prompt": prompt, "answer": i, "uid": uid})
        for i, (prompt, uid) in enumerate(["ax", "ax", "by", "az", "ax"])
    ]
    path = write(tmp_path / "p.jsonl", "\n".join(lines))
    kept = load(path, keep_repeats=True)
    assert [p.id for p in kept.datasets[0].problems] == [f"p.jsonl:{n}" for n in range(1, 6)]
    assert kept.num_duplicates == 0 and load(path).num_duplicates == 3
    named = load(path, RecordFormat(id_field="uid"), keep_repeats=True)
    assert [p.id for p in named.datasets[0].problems] == [
        "p.jsonl#x",
        "p.jsonl#x (2)",
        "p.jsonl#y",
        "p.jsonl#z",
        "p.jsonl#x (3)",
    ]


def test_an_id_of_two_questions_is_a_bad_record(tmp_path):
    lines = [json.dumps({"prompt": prompt, "answer": 1, "uid": uid}) for prompt, uid in ("ax", "bx", "cy")]
    path = write(tmp_path / "p.jsonl", "\n".join(lines))
    with pytest.raises(SettingError, match="p.jsonl:2: the id 'p.jsonl#x' is that of another question"):
        load(path, RecordFormat(id_field="uid"))
    assert prompts(load(path, RecordFormat(id_field="uid"), skip_bad=True)) == ["a", "c"]


def test_minerva_as_qwen_ships_it_and_as_the_hub_has_it(tmp_path):
    """evaluation/data/minerva_math/test.jsonl has problem and solution; the preset knew question and answer only."""
    rows = [
        {"problem": "Find $s$.", "solution": r"so \[s=\boxed{1.6} \mathrm{~cm}\]", "type": "Astronomy", "idx": 0},
        {"question": "Find $t$.", "answer": "2"},
    ]
    path = write(tmp_path / "test.jsonl", "\n".join(map(json.dumps, rows)))
    loaded = load_datasets([f"minerva={path}"], RecordFormat(), lambda _: [1], 10)
    assert [(p.prompt, p.ground_truth) for p in loaded.datasets[0].problems] == [
        ("Find $s$.", "1.6"),
        ("Find $t$.", "2"),
    ]
    with pytest.raises(SettingError, match=r"no field 'question'; there are \['problem'\]$"):
        load_datasets([f"minerva={write(path, json.dumps({'problem': 'x'}))}"], RecordFormat(), lambda _: [1], 10)


def test_olympiadbench_as_qwen_ships_it(tmp_path):
    row = {"id": 1606, "subfield": "Combinatorics", "context": None, "question": "How many?", "solution": ["s"]}
    row |= {"final_answer": ["2"], "is_multiple_answer": False, "unit": None, "answer_type": "Numerical", "error": None}
    path = write(tmp_path / "test.json", json.dumps([row]))
    (problem,) = load_datasets([f"olympiad={path}"], RecordFormat(), lambda _: [1], 10).datasets[0].problems
    assert (problem.id, problem.prompt, problem.ground_truth) == ("test.json#1606", "How many?", "2")
    assert problem.columns["is_multiple_answer"] is False and problem.columns["id"] == 1606


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.json.gz", "p.csv.gz"])
def test_a_packed_file_that_unpacks_to_far_more_is_refused(name, tmp_path, monkeypatch):
    """300 KB of gzip stood for 300 million blank lines: minutes of reading, or all memory, in silence."""
    monkeypatch.setattr(files, "FREE_BYTES", 1 << 18)
    packed = gzip.compress(b"\n" * 4_000_000)
    for skip_bad in (True, False):
        with pytest.raises(SettingError, match="cannot read .*unpacks to more than 200 times its size"):
            load(write(tmp_path / name, packed), skip_bad=skip_bad)


def test_repeated_records_may_be_packed_well(tmp_path):
    path = write(tmp_path / "p.jsonl.gz", gzip.compress((GOOD + "\n").encode() * 100_000 + OTHER.encode()))
    assert prompts(load(path)) == ["a", "b"]


def test_a_question_of_megabytes_is_too_long_without_being_encoded(tmp_path):
    """A question of 40 MB kept the tokenizer busy for minutes, only to be dropped."""
    lines = json.dumps({"prompt": "x" * 1_000_001, "answer": "1"}) + "\n" + GOOD
    path, asked = write(tmp_path / "p.jsonl", lines), []
    loaded = load_datasets([str(path)], RecordFormat(), lambda prompt: asked.append(prompt) or [1], 10)
    assert asked == prompts(loaded) == ["a"]
    assert loaded.num_too_long == 1


def test_an_answer_that_shows_nothing_is_empty(tmp_path):
    r"""A ground truth of zero-width spaces passed every check, and \boxed{} with nothing to see in it was right."""
    path = write(tmp_path / "p.jsonl", GOOD + '\n{"prompt": "b", "answer": "\u200b \u200b"}')
    with pytest.raises(SettingError, match="p.jsonl:2: field 'answer' is empty"):
        load(path)


def test_a_file_that_waits_for_what_comes_is_not_waited_for(tmp_path):
    """A link to /proc/kmsg, which the system calls a plain file, was read without an end."""
    (tmp_path / "p.jsonl").symlink_to("/proc/kmsg")
    started = time.monotonic()
    with pytest.raises(SettingError):
        load(tmp_path / "p.jsonl", skip_bad=True)
    assert time.monotonic() - started < 20

"""Answers on disk, interrupted and gone on with."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evaluate.answers import TRUE, answers
from tests.real_data import real_records
from treepo.errors import WriteError
from treepo.evaluate.records import SCHEMA, AnswerRecord, Cost, ProblemKey
from treepo.evaluate.store import AnswerStore

SETTINGS = {"model": ["m"], "temperature": 0.6, "tree": {"width": 16}}
COST = Cost(tokens_decoded=100, tokens_prefilled=10, wall_s=0.1, accelerator_s=0.2)


def begun(folder: Path) -> AnswerStore:
    store = AnswerStore(folder)
    store.claim(SETTINGS)
    return store


def records(store: AnswerStore) -> list[AnswerRecord]:
    return [AnswerRecord(**row) for row in store.read().to_pylist()]


def names(store: AnswerStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def key(problem: int, setting: str = "b=2") -> ProblemKey:
    return ProblemKey("m", setting, "aime", f"p:{problem}")


def test_columns_are_the_fields_of_a_record():
    assert list(TRUE.__dataclass_fields__) == SCHEMA.names


def test_answers_of_versions_that_knew_no_turns_are_gone_on_with(tmp_path):
    """Their files lack the columns, which read as null; others are still refused."""
    store = begun(tmp_path)
    store.append(answers(1), COST)
    (part,) = tmp_path.glob("part-*.parquet")
    pq.write_table(pq.read_table(part).drop_columns(["turns", "environment_reward"]), part, write_page_checksum=True)
    store.append(answers(2, turns="[]", environment_reward=0.5), COST)
    expected = answers(1) + answers(2, turns="[]", environment_reward=0.5)
    assert records(store) == expected
    store.compact()
    assert records(store) == expected


def test_an_empty_folder_holds_nothing(tmp_path):
    store = begun(tmp_path / "new" / "folder")
    assert (store.done(), store.costs(), records(store)) == (set(), {}, [])
    store.compact()
    assert names(store) == ["settings.json"]


def test_answers_are_read_back_in_the_order_in_which_they_were_kept(tmp_path):
    store = begun(tmp_path)
    chunks = [
        answers(3) + answers(1),
        answers(2, extracted_answer=None, correct=0.0, stop="length"),
        answers(1, setting="b=4"),
    ]
    for chunk in chunks:
        store.append(chunk, COST)
    expected = [record for chunk in chunks for record in chunk]
    assert records(store) == expected
    assert store.done() == {key(1), key(2), key(3), key(1, "b=4")}
    assert store.costs() == {("m", "b=2"): Cost(200, 20, 0.2, 0.4), ("m", "b=4"): COST}
    store.compact()
    assert names(store) == ["answers.parquet", "settings.json"]
    assert records(store) == expected
    assert pq.read_table(tmp_path / "answers.parquet").to_pylist() == [vars(record) for record in expected]


def test_compaction_changes_nothing_and_more_can_follow(tmp_path):
    """Ten parts of 0.1 s are 1.0 s, whether they are added in one go or around a compaction."""
    store = begun(tmp_path)
    for i in range(10):
        store.append(answers(i), COST)
        if i in (3, 6):
            before = records(store), store.done(), store.costs()
            store.compact()
            store.compact()
            store.claim(SETTINGS)
            assert (records(store), store.done(), store.costs()) == before
    assert [record.problem for record in records(store)] == [f"p:{i}" for i in range(10) for _ in range(2)]
    assert store.costs() == {("m", "b=2"): Cost(1000, 100, 1.0, 2.0)}


def test_some_columns_can_be_read_alone_and_in_any_order(tmp_path):
    store = begun(tmp_path)
    store.append(answers(1), COST)
    assert store.read(["seed", "model"]).to_pylist() == [{"seed": 2**62 + 1, "model": "m"}] * 2


def test_what_was_being_written_is_ignored_and_removed(tmp_path):
    store = begun(tmp_path)
    store.append(answers(1), COST)
    for name in ("unfinished-part-000002-0123456789ab.parquet", "unfinished-answers.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 half a file")
    assert store.done() == {key(1)}
    store.claim(SETTINGS)
    assert len(names(store)) == 2 and store.done() == {key(1)}


def test_an_interruption_between_a_compaction_and_its_cleaning_up(tmp_path):
    """Parts that are in answers.parquet already, still lying beside it, do not count twice."""
    store = begun(tmp_path)
    for i in range(3):
        store.append(answers(i), COST)
    parts = {path: path.read_bytes() for path in tmp_path.glob("part-*")}
    before = records(store), store.costs()
    store.compact()
    for path, content in parts.items():
        path.write_bytes(content)
    assert (records(store), store.costs()) == before
    store.append(answers(3), COST)
    assert len(records(store)) == 8
    store.claim(SETTINGS)
    assert len(list(tmp_path.glob("part-*"))) == 1 and len(records(store)) == 8


KILLED = """
import sys
from pathlib import Path
from tests.evaluate.answers import answers
from treepo.evaluate.records import Cost
from treepo.evaluate.store import AnswerStore
store = AnswerStore(Path(sys.argv[1]))
for i in range(100_000):
    store.append(answers(i, 4, response="long " * 20_000), Cost(tokens_decoded=1))
"""


def test_a_killed_process_leaves_whole_problems_or_none(tmp_path):
    store = begun(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("part-*"))) < 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    store.claim(SETTINGS)
    done = store.done()
    assert not list(tmp_path.glob("unfinished-*"))
    assert done == {key(i) for i in range(len(done))} and len(done) >= 5
    for i in range(len(done) + 3):
        if key(i) not in done:
            store.append(answers(i, 4), Cost(tokens_decoded=1))
    counts = Counter(store.read(["problem"])["problem"].to_pylist())
    assert counts == {f"p:{i}": 4 for i in range(len(done) + 3)}
    assert store.costs()["m", "b=2"].tokens_decoded == len(done) + 3


def test_an_error_while_a_part_is_written_leaves_no_part(tmp_path, monkeypatch):
    store = begun(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(WriteError, match=r"part-000001.* cannot be written \(disk full\); lost: what was answered"):
        store.append(answers(1), COST)
    assert store.done() == set()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no Parquet" * 30, None])
def test_a_damaged_part_is_named_in_one_line(damage, tmp_path):
    store = begun(tmp_path)
    store.append(answers(1), COST)
    (path,) = tmp_path.glob("part-*")
    if damage is None:
        pq.write_table(pa.table({"other": [1]}), path)
    else:
        path.write_bytes(damage(path.read_bytes()))
    for read in (store.read, store.done, store.costs, store.compact, lambda: store.claim(SETTINGS) or store.read()):
        with pytest.raises(ValueError, match=rf"^out: '{path}' cannot be read as answers: [^\n]+$"):
            read()


def test_answers_of_an_earlier_version_are_told_apart(tmp_path):
    """They have no votes, which cannot be made up without the verifier."""
    store = begun(tmp_path)
    store.append(answers(1), COST)
    (path,) = tmp_path.glob("part-*")
    pq.write_table(pq.read_table(path).drop_columns("vote"), path)
    with pytest.raises(ValueError, match="no column 'vote', as in files of another version$"):
        store.read()


def test_a_flipped_byte_in_a_response_is_found(tmp_path):
    store = begun(tmp_path)
    store.append(answers(1, response=random.Random(0).randbytes(500).hex()), COST)
    (path,) = tmp_path.glob("part-*")
    column = pq.ParquetFile(path).metadata.row_group(0).column(SCHEMA.names.index("response"))
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + 300] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name}.* cannot be read as answers"):
        store.read()


def test_answers_without_their_cost_are_not_ours(tmp_path):
    pq.write_table(SCHEMA.empty_table(), tmp_path / "part-000001-0.parquet")
    with pytest.raises(ValueError, match=r"^out: .*part-000001-0.parquet' cannot be read as answers: [^\n]+$"):
        AnswerStore(tmp_path).costs()


def test_a_copied_part_is_found(tmp_path):
    store = begun(tmp_path)
    store.append(answers(1), COST)
    (path,) = tmp_path.glob("part-*")
    (tmp_path / "part-000009-copy.parquet").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=rf"'{path.name}' and 'part-000009-copy.parquet' both hold \('m', 'b=2'"):
        store.done()


def test_other_settings_are_refused_and_shown(tmp_path):
    store = begun(tmp_path)
    store.append(answers(1), COST)
    before = (tmp_path / "settings.json").read_text()
    store.claim(json.loads(json.dumps(SETTINGS)))
    other = {"model": ("m",), "temperature": 1.0, "tree": {"width": 8, "depth": 4}}
    message = f"out: '{tmp_path}' has answers under other settings: temperature was 0.6, is 1.0; "
    with pytest.raises(ValueError, match=r"^out") as error:
        store.claim(other)
    assert str(error.value) == message + "tree.depth was absent, is 4; tree.width was 16, is 8"
    assert (tmp_path / "settings.json").read_text() == before


def test_a_folder_without_answers_takes_other_settings(tmp_path):
    """A first try that ended before anything was answered, for a mistake say, does not bind the next."""
    begun(tmp_path).claim({"temperature": 1.0})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"temperature": 1.0}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_damaged_settings_are_named(content, tmp_path):
    begun(tmp_path).append(answers(1), COST)
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^out: '{tmp_path}/settings.json' cannot be read as settings: "):
        AnswerStore(tmp_path).claim(SETTINGS)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out: cannot write to '.*file/folder': Not a directory"):
        AnswerStore(tmp_path / "file" / "folder").claim(SETTINGS)
    store = begun(tmp_path / "out")
    store.append(answers(1), COST)
    (tmp_path / "out" / "settings.json").unlink()
    with pytest.raises(ValueError, match="holds answers but no settings.json"):
        store.claim(SETTINGS)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS)
def test_any_text_is_kept(tmp_path_factory, response, given_text):
    store = begun(tmp_path_factory.mktemp("store"))
    kept = answers(1, response=response, extracted_answer=given_text)
    store.append(kept, COST)
    assert records(store) == kept


def test_published_problems_are_kept(tmp_path):
    store, kept = begun(tmp_path), []
    for i, record in enumerate(real_records("math500.jsonl")):
        known = str(record["answer"])
        kept += answers(
            i,
            1,
            prompt=str(record["problem"]),
            ground_truth=known,
            response=str(record["solution"]),
            extracted_answer=known,
        )
    for start in range(0, len(kept), 100):
        store.append(kept[start : start + 100], COST)
    store.compact()
    assert records(store) == kept and len(store.done()) == 500


def test_half_surrogate_pairs_are_replaced_in_texts_and_refused_in_keys(tmp_path):
    store = begun(tmp_path)
    store.append(answers(1, 1, response="a\ud800b \ud83d\ude00", extracted_answer="\udc00", stop="\x00\x1b["), COST)
    (record,) = records(store)
    assert (record.response, record.extracted_answer, record.stop) == ("a\ufffdb \U0001f600", "\ufffd", "\x00\x1b[")
    with pytest.raises(ValueError, match=r"^dataset: '\\udcff.jsonl' holds half a surrogate pair"):
        store.append(answers(2, dataset="\udcff.jsonl"), COST)
    assert len(records(store)) == 1


def test_folders_that_look_like_partitions_add_no_columns(tmp_path):
    """A folder named b=2 is read as a column by pyarrow's datasets."""
    store = begun(tmp_path / "b=2" / "setting=x")
    store.append(answers(1), COST)
    assert store.read().column_names == SCHEMA.names

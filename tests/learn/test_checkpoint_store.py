"""Checkpoints on disk: whole or not there, checked before they are read, and written in the background."""

import errno
import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import treepo.learn.checkpoint as store_module
from tests.learn.train_states import make_train_state, save
from treepo.errors import DamagedError, SettingError
from treepo.learn.checkpoint import (
    CheckpointStore,
    CheckpointWriter,
    Progress,
    Snapshot,
)
from treepo.learn.manifest import Identity, check_manifest, write_manifest


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return save(CheckpointStore(tmp_path_factory.mktemp("store"), keep=1), make_train_state(0), Progress(1, 0.5, 0))


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_bit_and_any_cut_is_found(written, data):
    """In every file, the manifest's own included, unless it says the same afterwards."""
    path = data.draw(st.sampled_from(sorted(written.iterdir())))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place]
    if data.draw(st.booleans()):
        changed += bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :]
    check_manifest(written)
    try:
        path.write_bytes(changed)
        if path.name == "manifest.json" and _says_the_same(whole, changed):
            return
        with pytest.raises(DamagedError):
            check_manifest(written)
    finally:
        path.write_bytes(whole)


def _says_the_same(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except (ValueError, KeyError, TypeError):
        return False


def test_a_foreign_file_is_found(tmp_path):
    """All safetensors of the folder would be read."""
    folder = save(CheckpointStore(tmp_path, keep=1), make_train_state(0), Progress(1, 0.5, 0))
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(DamagedError, match="more.safetensors is missing or unknown"):
        check_manifest(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "step-000009"}, "^resume: '.*step-000009' is a checkpoint of step 2; remove it"),
        ({"run": "another"}, "^resume: '.*step-000002' is a checkpoint of another run; remove it"),
    ],
)
def test_a_renamed_or_foreign_checkpoint_is_refused(tmp_path, changed, message):
    """It was taken for the run's own, and the run went on from a state that it never had."""
    store = CheckpointStore(tmp_path, keep=3, run="this")
    writer = replace(store, run=changed.get("run", "this"))
    for number in (1, 2):
        save(writer if number == 2 else store, make_train_state(0), Progress(number, 0.0, 0))
    assert "name" in changed or store.found_run() == "another"
    (tmp_path / "step-000002").rename(tmp_path / changed.get("name", "step-000002"))
    with pytest.raises(SettingError, match=message):
        store.newest()
    assert replace(store, run="").found_run() == writer.run


def test_a_state_that_somebody_made_is_one_line(tmp_path):
    """With the right checksums; deep JSON was a traceback."""
    store, train_state = CheckpointStore(tmp_path, keep=3), make_train_state(0)
    folder = save(store, train_state, Progress(1, 0.0, 0))
    for text in ("[" * 100_000, "[]", "{}", '{"step": 2, "best": 0.0, "best_step": 0}', "\udcff", "1" * 5000):
        (folder / "state.json").write_text(text, errors="surrogateescape")
        write_manifest(folder, Identity("", 1))
        assert store.newest() == 1
        with pytest.raises(SettingError, match="^resume: '.*state.json' holds no state of a run: ") as raised:
            store.restore(1, train_state)
        assert len(str(raised.value)) < 500 and "\n" not in str(raised.value)


def test_damaged_checkpoints_are_passed_over_with_a_warning(tmp_path, caplog):
    store = CheckpointStore(tmp_path, keep=3)
    train_state = make_train_state(0)
    for number in (1, 2, 3):
        save(store, train_state, Progress(number, 0.0, 0))
    os.truncate(tmp_path / "step-000003" / "state.json", 5)
    (tmp_path / "step-000002" / "manifest.json").unlink()
    assert store.newest() == 1
    said = warnings_of(caplog)
    assert said[0].startswith("checkpoint of step 3 is damaged and passed over: state.json has 5 bytes, not ")
    assert said[1].endswith(
        "step 2 is damaged and passed over: manifest.json cannot be read: No such file or directory"
    )
    # What comes later than the one that the run went on from is dropped when there is a new one.
    save(store, train_state, Progress(2, 0.0, 0))
    assert (store.steps(), store.newest(), len(warnings_of(caplog))) == ([1, 2], 2, 2)


def test_the_last_few_and_the_best_are_kept(tmp_path):
    store, train_state = CheckpointStore(tmp_path, keep=2), make_train_state(0)
    best = {1: 0, 2: 2, 3: 2, 4: 2, 5: 5, 6: 5}
    kept = []
    for number, best_step in best.items():
        save(store, train_state, Progress(number, 0.0, best_step))
        kept.append(store.steps())
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [4, 5], [5, 6]]


def test_what_a_killed_process_left_is_no_checkpoint_and_is_removed(tmp_path):
    (tmp_path / "step-000007.partial").mkdir()
    store = CheckpointStore(tmp_path, keep=2)
    assert store.newest() is None
    save(store, make_train_state(0), Progress(8, 0.0, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000008"]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged; torch logs as well."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("treepo")]


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failing_write_keeps_the_previous_one_and_warns(tmp_path, monkeypatch, caplog):
    store, train_state = CheckpointStore(tmp_path, keep=1), make_train_state(0)
    writer = CheckpointWriter(store)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_manifest", no_space)
        writer.start(Snapshot.of(train_state, Progress(1, 0.0, 0)))
        writer.wait()
    assert warnings_of(caplog) == [
        "checkpoint of step 1 could not be written (No space left on device); there is none yet"
    ]
    assert list(tmp_path.iterdir()) == []
    writer.start(Snapshot.of(train_state, Progress(2, 0.0, 0)))
    writer.wait()
    assert not writer.failure
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_manifest", no_space)
        writer.start(Snapshot.of(train_state, Progress(3, 0.0, 0)))
        writer.wait()
    assert writer.failure == "No space left on device"
    assert warnings_of(caplog)[1] == (
        "checkpoint of step 3 could not be written (No space left on device); the last one is of step 2"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    assert store.newest() == 2


def test_a_file_that_may_not_grow_fails_inside_torch_as_outside(tmp_path, caplog):
    """torch.distributed.checkpoint wraps what goes wrong in an exception that is no Exception."""
    writer = CheckpointWriter(CheckpointStore(tmp_path, keep=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    snapshot = Snapshot.of(make_train_state(0), Progress(1, 0.0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        writer.start(snapshot)
        writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert warnings_of(caplog) == ["checkpoint of step 1 could not be written (File too large); there is none yet"]
    assert list(tmp_path.iterdir()) == []


def test_a_fault_that_is_not_the_disks_is_raised_to_whoever_waits(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(store_module, "write_manifest", fail)
    writer = CheckpointWriter(CheckpointStore(tmp_path, keep=1))
    writer.start(Snapshot.of(make_train_state(0), Progress(1, 0.0, 0)))
    with pytest.raises(RuntimeError, match="a bug"):
        writer.wait()
    writer.wait()


def test_writing_is_in_the_background_and_the_next_waits(tmp_path, monkeypatch):
    go, write = Event(), CheckpointStore.write
    monkeypatch.setattr(CheckpointStore, "write", lambda *args: go.wait(30) and write(*args))
    store, train_state = CheckpointStore(tmp_path, keep=5), make_train_state(0)
    writer = CheckpointWriter(store)
    writer.start(Snapshot.of(train_state, Progress(1, 0.0, 0)))
    assert store.steps() == []
    go.set()
    writer.start(Snapshot.of(train_state, Progress(2, 0.0, 0)))
    assert 1 in store.steps()
    writer.wait()
    assert store.steps() == [1, 2]

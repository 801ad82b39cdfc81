"""Files that are whole, and folders with one writer."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treepo.errors import SettingError, WriteError
from treepo.utils.io import (
    check_unused,
    create_text,
    export_text,
    lock_dir,
    prepare_output_dir,
    preparing,
    replace_text,
    replacing_folder,
    restore_folder,
    writing,
)

pytestmark = pytest.mark.quick


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves what was there."""
    path = tmp_path / "file"
    replace_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("treepo.utils.io.sync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            replace_text(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
    replace_text(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_has_one_writer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else gets the lock until it is released, in the same process either."""
    with (
        lock_dir(tmp_path),
        pytest.raises(SettingError, match=f"out: another process writes to '{tmp_path}'"),
        lock_dir(tmp_path),
    ):
        pytest.fail("held twice")
    with lock_dir(tmp_path):
        assert caplog.messages == []


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    """A lock that outlives its process would refuse to resume after a crash."""
    code = f"""
import time, pathlib
from treepo.utils.io import lock_dir
with lock_dir(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(SettingError, match="another process writes to"), lock_dir(tmp_path):
            pytest.fail("held twice")
        process.send_signal(signal.SIGKILL)
    with lock_dir(tmp_path):
        assert (tmp_path / "lock").is_file()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An evaluation on one ended in a traceback. A soft lock in its place would stay after a kill."""

    def unsupported(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    for _ in range(2):
        with lock_dir(tmp_path):
            pass
    expected = f"{str(tmp_path)!r} cannot be locked ({os.strerror(code)}): make sure that no other process writes there"
    assert caplog.messages == [expected] * 2


def test_a_folder_that_cannot_be_locked_is_named() -> None:
    with (
        pytest.raises(SettingError, match="^resume: cannot use '/dev/null/x': Not a directory$"),
        lock_dir(Path("/dev/null/x"), "resume"),
    ):
        pytest.fail("it is under a file")


def test_new_results_take_no_place_of_others(tmp_path: Path) -> None:
    """A folder may be there if it is empty; a file must not."""
    prepare_output_dir(tmp_path / "new" / "folder")
    prepare_output_dir(tmp_path / "new" / "folder")
    (tmp_path / "new" / "folder" / "file").touch()
    with pytest.raises(SettingError, match="^out: '.*folder' already holds files; give a new folder$"):
        prepare_output_dir(tmp_path / "new" / "folder")
    with pytest.raises(SettingError, match="^out: '.*file' already holds files"):
        check_unused(tmp_path / "new" / "folder" / "file")
    with pytest.raises(SettingError, match="^out: '.*new' is already there; give a new file$"):
        check_unused(tmp_path / "new", is_folder=False)
    with pytest.raises(SettingError, match="^json: cannot use"):
        check_unused(Path("x" * 5000), "json")
    with pytest.raises(SettingError, match="^out: cannot write to '/dev/null/x': Not a directory"):
        prepare_output_dir(Path("/dev/null/x"))


def test_results_of_two_kinds_share_a_folder(tmp_path: Path) -> None:
    """One benchmark beside another, but never over its own earlier results."""
    prepare_output_dir(tmp_path, result="rollout.json")
    (tmp_path / "rollout.json").touch()
    prepare_output_dir(tmp_path, result="update.json")
    with pytest.raises(SettingError, match="already holds rollout.json"):
        prepare_output_dir(tmp_path, result="rollout.json")


def test_what_cannot_be_written_is_named_with_what_is_lost(tmp_path: Path) -> None:
    """A path that no disk could take is the user's mistake, where the user gave it."""
    path = tmp_path / "no" / "file"
    with pytest.raises(WriteError) as caught, writing(path, "the answers"):
        path.write_text("")
    assert str(caught.value) == f"{str(path)!r} cannot be written (No such file or directory); lost: the answers"
    with (
        pytest.raises(SettingError, match="^out: cannot write to '.*no/file': No such file"),
        writing(path, "it", "out"),
    ):
        path.write_text("")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for context in (writing(path, "it", "out"), preparing(path, "out", "it")):
        with pytest.raises(WriteError, match="No space left on device"), context:
            raise full
    with pytest.raises(SettingError, match="Permission denied"), preparing(path, "out"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_new_file_is_made_by_one_of_two(tmp_path: Path) -> None:
    create_text(tmp_path / "file", "one")
    with pytest.raises(FileExistsError):
        create_text(tmp_path / "file", "two")
    (tmp_path / "other.partial").touch()
    with pytest.raises(FileExistsError):
        create_text(tmp_path / "other", "two")
    assert (tmp_path / "file").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other.partial"]


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """As root, a report for /dev/stdout took its place."""
    read, write = os.pipe()
    export_text(Path(f"/proc/self/fd/{write}"), "to a pipe")
    assert os.read(read, 100) == b"to a pipe"
    os.close(read), os.close(write)
    (tmp_path / "null").symlink_to("/dev/null")
    export_text(tmp_path / "null", "nowhere")
    assert (tmp_path / "null").is_symlink()
    export_text(tmp_path / "file", "here")
    assert (tmp_path / "file").read_text() == "here"


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails: what is written, the flush, one of the renames."""
    path = tmp_path / "model"

    def write(text: str) -> None:
        with replacing_folder(path) as partial:
            (partial / "file").write_text(text)
            (partial / "file").chmod(0o600)
            (partial / "inner").mkdir()
            (partial / "inner" / "file").write_text(text)

    write("one")
    for count in range(1, 8):
        with monkeypatch.context() as patch:
            calls: list[object] = []
            for owner, name in ((os, "fsync"), (Path, "rename")):
                patch.setattr(owner, name, _failing_at(count, calls, getattr(owner, name)))
            try:
                write("two")
            except OSError:
                assert {p.read_text() for p in path.rglob("file")} in ({"one"}, {"two"})
                assert [p.name for p in tmp_path.iterdir()] == ["model"]
    write("three")
    assert {p.read_text() for p in path.rglob("file")} == {"three"}
    assert (path / "file").stat().st_mode == (path / "inner" / "file").stat().st_mode, "that of new files"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def _failing_at(count: int, calls: list[object], original: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(*args: Any) -> Any:
        calls.append(original)
        if len(calls) == count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(*args)

    return replaced


def test_a_folder_gets_its_name_back(tmp_path: Path) -> None:
    """A process was killed when it had renamed what was there before, and not yet what it had written."""
    (tmp_path / "best.before").mkdir()
    (tmp_path / "best.partial").mkdir()
    restore_folder(tmp_path / "best")
    assert (tmp_path / "best").is_dir() and not (tmp_path / "best.before").exists()
    (tmp_path / "best.before").mkdir()
    restore_folder(tmp_path / "best")
    assert (tmp_path / "best.before").is_dir(), "the new one has its name"


def test_a_link_gives_way_and_a_file_does_not(tmp_path: Path) -> None:
    """What a link points to is somebody's."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("theirs")
    (tmp_path / "model").symlink_to(tmp_path / "theirs")
    with replacing_folder(tmp_path / "model") as partial:
        (partial / "file").write_text("ours")
    assert not (tmp_path / "model").is_symlink() and (tmp_path / "model" / "file").read_text() == "ours"
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"
    (tmp_path / "file").write_text("a file")
    with pytest.raises(NotADirectoryError), replacing_folder(tmp_path / "file") as partial:
        pytest.fail("it must not begin")
    assert (tmp_path / "file").read_text() == "a file"


def test_a_path_that_is_no_text_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    """A run in such a folder ended with a traceback when its tokenizer was to be saved, and its model was lost."""
    for path, is_folder in ((tmp_path / "\udcff" / "x", True), (tmp_path / "x\udcff.parquet", False)):
        with pytest.raises(SettingError, match="^out: cannot use .*is no text in UTF-8$"):
            check_unused(path, is_folder=is_folder)
    for use in (lambda path: prepare_output_dir(path, result="r.json"), lambda path: lock_dir(path).__enter__()):
        for name in ("x\udcff", "x\0"):
            with pytest.raises(SettingError, match="^out: cannot use .*is no text in UTF-8$"):
                use(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folders_deeper_than_python_goes_are_one_line(tmp_path: Path) -> None:
    """A RecursionError with its traceback."""
    with pytest.raises(SettingError, match="^out: cannot write to .*: too many folders in one another$"):
        prepare_output_dir(tmp_path / "/".join(1900 * "y"))

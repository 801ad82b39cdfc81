"""Files that are whole, and folders with one writer."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from treepo.errors import SettingError
from treepo.utils.io import check_unused, lock_dir, prepare_output_dir, replace_text

pytestmark = pytest.mark.quick


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves what was there."""
    path = tmp_path / "file"
    replace_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("treepo.utils.io.sync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            replace_text(path, "new")
    assert path.read_text() == "old"
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

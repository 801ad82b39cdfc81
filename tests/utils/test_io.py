"""Files that are whole, and folders with one writer."""

import errno
import fcntl
from pathlib import Path

import pytest

from treepo.utils.io import locked, replace_text


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


def test_a_lock_is_held_for_so_long(tmp_path: Path) -> None:
    """Nobody else gets it until it is given back."""
    told: list[str] = []
    with locked(tmp_path / "lock", told.append), pytest.raises(BlockingIOError), locked(tmp_path / "lock", told.append):
        pytest.fail("held twice")
    with locked(tmp_path / "lock", told.append):
        assert told == []


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation on one ended in a traceback; training said it and went on."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    told: list[str] = []
    with locked(tmp_path / "lock", told.append):
        assert len(told) == 1 and "cannot be locked (No locks available)" in told[0]

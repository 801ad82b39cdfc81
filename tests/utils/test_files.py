"""Files that others may have made: pipes, devices, links."""

import os
import time
from pathlib import Path

import pytest

from treepo.errors import SettingError
from treepo.utils.files import open_plain, read_plain
from treepo.utils.io import lock_dir, replace_text
from treepo.utils.settings_file import SETTINGS_BYTES, read_toml

pytestmark = pytest.mark.quick


@pytest.fixture(params=["pipe", "link to a pipe", "device", "link to a device", "socket"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path to what is no plain file."""
    path = tmp_path / "odd"
    if "device" in request.param:
        device = Path("/dev/zero")
        if "link" not in request.param:
            return device
        path.symlink_to(device)
    elif request.param == "socket":
        os.mknod(path, 0o140600)
    else:
        pipe = path.with_name("pipe") if "link" in request.param else path
        os.mkfifo(pipe)
        if pipe != path:
            path.symlink_to(pipe)
    return path


@pytest.mark.parametrize("mode", ["rb", "r", "a", "ab", "w"])
def test_what_is_no_plain_file_is_refused_at_once(odd: Path, mode: str) -> None:
    """Reading a pipe waited for a writer, reading /dev/zero took all memory."""
    start = time.monotonic()
    with pytest.raises(OSError, match="not a plain file|it is a symbolic link"):
        open_plain(odd, mode)
    assert time.monotonic() - start < 5


def test_a_link_is_read_and_never_written_through(tmp_path: Path) -> None:
    """A metrics.jsonl in somebody's run folder that leads to another file of the user's."""
    (tmp_path / "own").write_text("mine")
    for name, target in (("link", "own"), ("dangling", "new")):
        (tmp_path / name).symlink_to(tmp_path / target)
        for mode in ("a", "w", "r+"):
            with pytest.raises(OSError, match="it is a symbolic link"):
                open_plain(tmp_path / name, mode)
    assert read_plain(tmp_path / "link") == b"mine"
    assert (tmp_path / "own").read_text() == "mine" and not (tmp_path / "new").exists()


def test_what_is_being_written_is_not_written_through_a_link(tmp_path: Path) -> None:
    """The name of the unfinished file can be guessed."""
    (tmp_path / "own").write_text("mine")
    (tmp_path / "file.partial").symlink_to(tmp_path / "own")
    replace_text(tmp_path / "file", "new")
    assert ((tmp_path / "own").read_text(), (tmp_path / "file").read_text()) == ("mine", "new")


@pytest.mark.parametrize("target", ["own", "new"])
def test_a_lock_is_no_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "own").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / target)
    with pytest.raises(SettingError, match="its file lock is a symbolic link"), lock_dir(tmp_path / "run"):
        pytest.fail("it is locked")
    assert (tmp_path / "own").read_text() == "mine" and not (tmp_path / "new").exists()


def test_plain_files_are_appended_to_with_the_mode_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for _ in range(2):
            with open_plain(tmp_path / "log", "a", encoding="utf-8") as file:
                file.write("line\n")
    finally:
        os.umask(before)
    assert (tmp_path / "log").read_text() == "line\nline\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="longer than 9 bytes"):
        read_plain(tmp_path / "log", 9)
    with pytest.raises(IsADirectoryError):
        read_plain(tmp_path)


BAD_TOML = {
    "deep list": "a = " + "[" * 100_000,
    "deep table": "a = " + "{a=" * 100_000,
    "a key of many parts": "a." * 20_000 + "a = 1",
    "a key of many parts in a table": "x = {" + "a . " * 20_000 + "a = 1}",
    "a table of many parts": "[" + "a." * 20_000 + "a]",
    "a number of many digits": "a = " + "1" * 5000,
    "no text": b"\xff\xfe",
    "long": "#" * (SETTINGS_BYTES + 1),
    "no TOML": "x" * 1000,
}


@pytest.mark.parametrize("kind", BAD_TOML)
def test_settings_that_are_none_are_an_error_at_once(tmp_path: Path, kind: str) -> None:
    """A key of 20,000 parts took half a minute, and deep nesting was a traceback of `treepo report`."""
    content = BAD_TOML[kind]
    (tmp_path / "x.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    with pytest.raises((OSError, ValueError)):
        read_toml(tmp_path / "x.toml")
    assert time.monotonic() - start < 5


def test_texts_with_many_dots_are_settings(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('[a.b]\r\nc = "' + ". " * 1000 + '"\r\nd.e = 1.5\r\n')
    assert read_toml(tmp_path / "x.toml") == {"a": {"b": {"c": ". " * 1000, "d": {"e": 1.5}}}}

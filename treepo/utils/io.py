"""Files that are on disk when a call returns, are there as a whole or not at all, and folders with one writer."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


def write_text(path: Path, text: str) -> None:
    """Write a file that is on disk when this returns."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def replace_text(path: Path, text: str) -> None:
    """Write a file that is there with all of its text or as it was before."""
    with replacing(path, path.with_name(path.name + PARTIAL)) as partial:
        partial.write_text(text, encoding="utf-8")


def replace_lines(path: Path, lines: list[bytes]) -> None:
    """The same with lines that end as they do."""
    with replacing(path, path.with_name(path.name + PARTIAL)) as partial:
        partial.write_bytes(b"".join(lines))


@contextmanager
def replacing(path: Path, unfinished: Path) -> Iterator[Path]:
    """`unfinished`, to write to, which takes the place of `path` once all is written and on disk."""
    yield unfinished
    sync(unfinished)
    unfinished.replace(path)


def sync(path: Path) -> None:
    """See a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file for so long; a killed process holds nothing.

    notify: told in a line where the file system knows no locks, as some over a network. Raises BlockingIOError if
    another process holds it, OSError if the file cannot be made.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            notify(f"{str(path.parent)!r} cannot be locked ({error.strerror}): see that no other process writes there")
        yield

"""Files that are on disk when a call returns, are there as a whole or not at all, and folders with one writer."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from treepo.errors import SettingError

logger = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """Return `$TREEPO_CACHE`, else `$XDG_CACHE_HOME/treepo`, else `~/.cache/treepo`."""
    if folder := os.environ.get("TREEPO_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "treepo"
    return Path.home() / ".cache" / "treepo"


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can read or change, and return it.

    Raises OSError if it cannot be made, PermissionError if it or its parent belongs to another user or others may write
    there: then what lies in it may have been put there by anybody.
    """
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if is_own(folder):
        folder.chmod(0o700)
    if not (is_own(folder) and is_own(folder.parent)):
        raise PermissionError(f"{str(folder)!r} is not this user's own")
    return folder


def is_own(path: Path) -> bool:
    """Return whether a file or folder (or the link itself) belongs to this user and nobody else may write it."""
    status = path.lstat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


PARTIAL = ".partial"
LOCK = "lock"
"""The file in a folder that its writer holds."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems without locks answer, such as NFS without its lock service."""


def write_text(path: Path, text: str) -> None:
    """Write a file that is on disk when this returns."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def replace_text(path: Path, text: str) -> None:
    """Write a file that afterwards holds all of its text, or what it held before."""
    with replacing(path, path.with_name(path.name + PARTIAL)) as partial:
        partial.write_text(text, encoding="utf-8")


def replace_lines(path: Path, lines: list[bytes]) -> None:
    """The same for lines that keep their line ends."""
    with replacing(path, path.with_name(path.name + PARTIAL)) as partial:
        partial.write_bytes(b"".join(lines))


@contextmanager
def replacing(path: Path, unfinished: Path) -> Iterator[Path]:
    """Yield `unfinished` to write to; it takes the place of `path` once all of it is on disk."""
    # What is there may be a link that somebody else has made.
    unfinished.unlink(missing_ok=True)
    yield unfinished
    sync(unfinished)
    unfinished.replace(path)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_unused(path: Path, option: str = "out", is_folder: bool = True) -> None:
    """Refuse a path for new results that is taken: a file, or a folder that is not empty.

    option: what the path was given as. is_folder: False for a file, whose path must be free. Raises SettingError.
    """
    try:
        is_used = path.exists() and not (is_folder and path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise SettingError(option, f"cannot use {str(path)[:100]!r}: {error.strerror}") from error
    if is_used:
        found, wanted = ("already holds files", "folder") if is_folder else ("is already there", "file")
        raise SettingError(option, f"{str(path)!r} {found}; give a new {wanted}")


def prepare_output_dir(path: Path, option: str = "out", result: str = "") -> None:
    """Make a folder for new results, with the folders above it.

    It must not hold files yet or, where `result` names one, not that file. Raises SettingError.
    """
    if not result:
        check_unused(path, option)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if result and (path / result).exists():
            raise SettingError(option, f"{str(path)!r} already holds {result}; give another folder")
    except OSError as error:
        raise SettingError(option, f"cannot write to {str(path)[:100]!r}: {error.strerror}") from error


@contextmanager
def lock_dir(path: Path, option: str = "out") -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made if needed, while entered.

    A killed process holds nothing. A file system without locks is used all the same, with a warning. Raises
    SettingError if another process holds the folder or its lock file cannot be made.
    """
    # A soft lock, which filelock would fall back to, outlives a killed process.
    lock = FileLock(path / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise SettingError(option, f"another process writes to {str(path)[:200]!r}") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            reason = f"its file {LOCK} is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise SettingError(option, f"cannot use {str(path)[:100]!r}: {reason}") from error
        logger.warning(
            "%r cannot be locked (%s): make sure that no other process writes there", str(path), error.strerror
        )
    try:
        yield
    finally:
        lock.release()

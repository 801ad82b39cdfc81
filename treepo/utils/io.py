"""Files that are on disk when a call returns, are there as a whole or not at all, and folders with one writer."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from treepo.errors import NO_ROOM, RESOURCE_ERRORS, SettingError, WriteError
from treepo.utils.text import holds_nul, is_unicode

logger = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """Return `$TREEPO_CACHE`, else `$XDG_CACHE_HOME/treepo`, else `~/.cache/treepo`."""
    if folder := os.environ.get("TREEPO_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "treepo"
    return Path.home() / ".cache" / "treepo"


def new_folder(prefix: str = "") -> Path:
    """A folder under runs/ that is named after the time."""
    return Path("runs") / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"


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


PARTIAL, BEFORE = ".partial", ".before"
"""Ends of the names of what is being written, and of the folder whose place it takes, until it is removed."""

LOCK = "lock"
"""The file in a folder that its writer holds."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems without locks answer, such as NFS without its lock service."""

WRONG_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}
"""A path that no disk could take."""


@contextmanager
def writing(path: Path, lost: str, option: str = "") -> Iterator[None]:
    """Raise WriteError where the path cannot be written, for any reason. lost: what is not on disk then.

    option: what the path was given as, if it was; then SettingError is raised for a path that is none.
    """
    try:
        yield
    except OSError as error:
        if option and error.errno in WRONG_PATH:
            raise SettingError(option, f"cannot write to {str(path)[:100]!r}: {error.strerror}") from error
        raise WriteError.of(error, path, lost) from error


@contextmanager
def preparing(path: Path, option: str, lost: str = "nothing") -> Iterator[None]:
    """Raise SettingError where a path for new results cannot be used, or WriteError where its disk has no room."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise WriteError.of(error, path, lost) from error
        raise SettingError(option, f"cannot write to {str(path)[:100]!r}: {error.strerror or error}") from error
    except RecursionError as error:
        raise SettingError(option, f"cannot write to {str(path)[:100]!r}: too many folders in one another") from error


def write_text(path: Path, text: str) -> None:
    """Write a file that is on disk when this returns."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def create_text(path: Path, text: str) -> None:
    """Write a new file, as a whole or not at all. Raises FileExistsError if it is there, or being written."""
    unfinished = path.with_name(path.name + PARTIAL)
    with unfinished.open("x", encoding="utf-8") as file:
        try:
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            unfinished.rename(path)
            sync(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a file that afterwards holds all of its text, or what it held before."""
    replace_bytes(path, text.encode())


def export_text(path: Path, text: str) -> None:
    """The same for a path that the user gave, which may be a device or a pipe, such as /dev/stdout."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_text(text, encoding="utf-8")
    else:
        replace_text(path, text)


def replace_bytes(path: Path, content: bytes) -> None:
    """The same as `replace_text` for bytes."""
    with replacing(path, path.with_name(path.name + PARTIAL)) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path: Path, unfinished: Path) -> Iterator[Path]:
    """Yield `unfinished` to write to; it takes the place of `path` once all of it is on disk, or is removed."""
    remove(unfinished)
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)
    finally:
        # What is left of it takes room on a disk that may be full.
        with suppress(OSError):
            remove(unfinished)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write files to; it takes the place of `path` once all of it is on disk, or is removed.

    What was there stays until then (see `restore_folder`); a file there is not replaced. The files get the mode that
    new files get.
    """
    partial, before = (path.with_name(path.name + end) for end in (PARTIAL, BEFORE))
    restore_folder(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file has its name", str(path))
    try:
        remove(partial)
        partial.mkdir(parents=True)
        yield partial
        settle_folder(partial)
        if path.is_symlink() or path.exists():
            remove(before)
            path.rename(before)
        partial.rename(path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            restore_folder(path)
            remove(partial)
            remove(before)


def restore_folder(path: Path) -> None:
    """Give a folder its name back if a process ended while `replacing_folder` replaced it."""
    before = path.with_name(path.name + BEFORE)
    if before.is_dir() and not (path.is_symlink() or path.exists()):
        before.rename(path)


def settle_folder(folder: Path) -> None:
    """Flush the files of a folder to the disk, with the mode that new files get: some libraries write files that only
    this user can read."""
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)
        sync(path)
    sync(folder)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    _check_name(path, option)
    try:
        is_used = path.exists() and not (is_folder and path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise SettingError(option, f"cannot use {str(path)[:100]!r}: {error.strerror}") from error
    if is_used:
        found, wanted = ("already holds files", "folder") if is_folder else ("is already there", "file")
        raise SettingError(option, f"{str(path)!r} {found}; give a new {wanted}")


def _check_name(path: Path, option: str) -> None:
    """Raise SettingError for a path that settings, records and tokenizers, which are UTF-8, cannot hold."""
    name = str(path.absolute())
    if not is_unicode(name) or holds_nul(name):
        raise SettingError(option, f"cannot use {str(path)[:100]!r}: its name is no text in UTF-8")


def prepare_output_dir(path: Path, option: str = "out", result: str = "") -> None:
    """Make a folder for new results, with the folders above it.

    It must not hold files yet or, where `result` names one, not that file. Raises SettingError, or WriteError if the
    disk is full.
    """
    _check_name(path, option)
    if not result:
        check_unused(path, option)
    with preparing(path, option):
        path.mkdir(parents=True, exist_ok=True)
        if result and (path / result).exists():
            raise SettingError(option, f"{str(path)!r} already holds {result}; give another folder")


@contextmanager
def lock_dir(path: Path, option: str = "out") -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made if needed, while entered.

    A killed process holds nothing. A file system without locks is used all the same, with a warning. Raises
    SettingError if another process holds the folder or its lock file cannot be made, WriteError if the disk is full.
    """
    _check_name(path, option)
    # A soft lock, which filelock would fall back to, outlives a killed process.
    lock = FileLock(path / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise SettingError(option, f"another process writes to {str(path)[:200]!r}") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise WriteError.of(error, path / LOCK, "nothing") from error
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


GO_ON = "to go on: "


@contextmanager
def going_on(command: str, *also: type[Exception]) -> Iterator[None]:
    """Say which command goes on where disk or memory have no room, unless that was said. also: other such errors."""
    try:
        yield
    except (*RESOURCE_ERRORS, *also) as error:
        if not any(note.startswith(GO_ON) for note in getattr(error, "__notes__", ())):
            error.add_note(GO_ON + command)
        raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        found = WriteError.of(error, Path(error.filename or "a file"), "what it was to hold")
        found.add_note(GO_ON + command)
        raise found from error
    except RuntimeError as error:
        # torch loads here, unless the error is its own.
        from treepo.utils.foreign_errors import first_line, is_out_of_memory  # noqa: PLC0415

        if not is_out_of_memory(error):
            raise
        found = MemoryError(f"out of memory ({first_line(error)})")
        found.add_note(GO_ON + command)
        raise found from error

"""The folder that keeps what is expensive to make and the same for every run: the built-in base model, kernels."""

import os
from pathlib import Path


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

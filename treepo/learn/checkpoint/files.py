"""Files that are on disk when a call returns."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file that is on disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """See the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a file that is there with all of its text or as it was before."""
    partial = path.with_name(path.name + ".partial")
    write_text(partial, text)
    partial.replace(path)

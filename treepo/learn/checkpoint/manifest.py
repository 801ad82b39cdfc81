"""The manifest of a checkpoint: what every file of a folder must be."""

import hashlib
import json
from pathlib import Path

from treepo.files import sync, write_text

NAME = "manifest.json"


class DamagedError(Exception):
    """A file of a checkpoint is missing, cut short or changed."""


def write_manifest(folder: Path) -> None:
    """Write down size and checksum (blake2b) of all files of a folder, and see all that is in it to the disk."""
    files = {path.name: _facts(path) for path in _files(folder)}
    write_text(folder / NAME, json.dumps({"files": files}, indent=1))
    sync(folder)


def check_manifest(folder: Path) -> None:
    """Raise DamagedError unless the folder holds exactly the files of its manifest, bit by bit."""
    try:
        known = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        files = _files(folder)
        if names := {path.name for path in files} ^ set(known):
            raise DamagedError(f"{min(names)} is missing or unknown")
        for path in files:
            if path.stat().st_size != known[path.name]["bytes"]:
                raise DamagedError(f"{path.name} has {path.stat().st_size} bytes, not {known[path.name]['bytes']}")
            if _facts(path) != known[path.name]:
                raise DamagedError(f"{path.name} was changed: its checksum is another")
    except OSError as error:
        raise DamagedError(f"{Path(error.filename or folder).name} cannot be read: {error.strerror}") from error
    # A manifest that was damaged itself need not be text, JSON, or of the right form.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{NAME} is not one") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != NAME)


def _facts(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()}

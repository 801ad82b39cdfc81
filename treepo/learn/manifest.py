"""The manifest of a checkpoint: whose it is, and the sizes and checksums of its files."""

import hashlib
import json
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from treepo.errors import DamagedError
from treepo.utils.files import JSON_BYTES, open_plain, read_plain
from treepo.utils.io import sync, write_text
from treepo.utils.numeric import digest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Identity:
    """Whose checkpoint it is. run: a random name that the run was given when it started; empty if it has none."""

    run: str
    step: int

    @property
    def checksum(self) -> str:
        """Tells a damaged manifest from one of another run."""
        return digest(f"{self.step} {self.run}", size=16).hex()


def write_manifest(folder: Path, identity: Identity) -> None:
    """Write whose checkpoint it is, and the sizes and checksums (blake2b) of all files of a folder; sync the folder."""
    files = {path.name: _facts(path) for path in _files(folder)}
    manifest = asdict(identity) | {"blake2b": identity.checksum, "files": files}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1))
    sync(folder)


def read_manifest(folder: Path) -> tuple[Identity, dict[str, Any]]:
    """(whose checkpoint it is, the facts of its files by name). Raises DamagedError."""
    try:
        manifest = json.loads(read_plain(folder / MANIFEST, JSON_BYTES))
        run, step, files = manifest["run"], manifest["step"], manifest["files"]
        if not (isinstance(run, str) and type(step) is int and isinstance(files, dict)):
            raise DamagedError(f"{MANIFEST} is not one")
        identity = Identity(run, step)
        if manifest["blake2b"] != identity.checksum:
            raise DamagedError(f"{MANIFEST} was changed: its checksum is another")
        return identity, files
    except OSError as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    # A manifest that was damaged itself need not be text, JSON, or of the right form.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} is not one") from error


def check_manifest(folder: Path) -> None:
    """Raise DamagedError unless the folder holds exactly the files of its manifest, bit for bit."""
    _, known = read_manifest(folder)
    try:
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
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{MANIFEST} is not one") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != MANIFEST)


def _facts(path: Path) -> dict[str, int | str]:
    with open_plain(path) as file:
        return {
            "bytes": path.stat().st_size,
            "blake2b": hashlib.file_digest(cast(BufferedReader, file), "blake2b").hexdigest(),
        }

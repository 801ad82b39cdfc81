"""Published sets of problems, for the tests that use them; they are no part of the project."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("TREEPO_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Where the files lie: TREEPO_DATA, or shared/data beside the project's folder."""


def real_file(name: str) -> Path:
    """The path of a set's file; skips the test where it is absent."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not there; name its folder in TREEPO_DATA")
    return path


def real_records(name: str) -> list[dict[str, Any]]:
    """The records of a set; skips the test where it is absent."""
    return [json.loads(line) for line in real_file(name).read_text(encoding="utf-8").splitlines() if line.strip()]

"""A run folder as it is found: of a run that is under way or was killed, files may be absent or end in mid-line."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT_NAME = "environment.jsonl"

MAX_NUMBER = 2**1000
"""Of whole numbers, which JSON lets have any number of digits."""


@dataclass(frozen=True)
class RunFolder:
    """Reads what a run has left so far; what cannot be read counts as not there."""

    path: Path

    def is_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.toml").is_file() or (self.path / "metrics.jsonl").is_file()

    def metrics(self) -> dict[int, dict[str, float]]:
        """Numbers by name of each step, steps rising; a step that stands there twice is as it was last written."""
        by_step = {}
        for line in _objects(self.path / "metrics.jsonl"):
            step = line.pop("step", None)
            if isinstance(step, int) and abs(step) <= MAX_NUMBER:
                by_step[step] = {name: value for name, value in line.items() if _is_number(value)}
        return dict(sorted(by_step.items()))

    def settings(self) -> dict[str, Any]:
        """All settings by `section.key`."""
        try:
            tables = tomllib.loads((self.path / "config.toml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            return {}
        sections = {name: table for name, table in tables.items() if isinstance(table, dict)}
        return {f"{name}.{key}": value for name, table in sections.items() for key, value in table.items()}

    def environment(self) -> dict[str, str]:
        """What the run ran in, of its last process; when it was begun, and when it was gone on with."""
        processes = list(_objects(self.path / ENVIRONMENT_NAME))
        if not processes:
            return {}
        started = [str(process.get("started", "")) for process in processes]
        resumed = {"resumed": ", ".join(started[1:])} if len(started) > 1 else {}
        return {name: str(value) for name, value in processes[-1].items()} | {"started": started[0]} | resumed

    def tree_files(self) -> dict[int, Path]:
        """The file of each step whose trees are kept, steps rising."""
        named = [(path.stem.removeprefix("step-"), path) for path in (self.path / "trees").glob("step-*.parquet")]
        return dict(sorted((int(step), path) for step, path in named if step.isdecimal()))


def _objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that has one per line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _is_number(value: object) -> bool:
    """Whether a float can hold it, be it infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= MAX_NUMBER

"""Reads a run folder in any state: files of a running or killed run may be missing or end in the middle of a line."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT_NAME = "environment.jsonl"

MAX_NUMBER = 2**1000
"""Largest whole number that is read; JSON allows any number of digits."""


@dataclass(frozen=True)
class RunFolder:
    """Reads what a run has written so far; unreadable parts count as missing."""

    path: Path

    def is_run(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.toml").is_file() or (self.path / "metrics.jsonl").is_file()

    def metrics(self) -> dict[int, dict[str, float]]:
        """The numbers of each step by name, steps ascending; of a repeated step the last one counts."""
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

    def section(self, name: str) -> dict[str, Any]:
        """The settings of one section by key."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): v for key, v in self.settings().items() if key.startswith(prefix)}

    def environment(self) -> dict[str, str]:
        """The environment of the last process, when the run was started, and when it was resumed."""
        processes = list(_objects(self.path / ENVIRONMENT_NAME))
        if not processes:
            return {}
        started = [str(process.get("started", "")) for process in processes]
        resumed = {"resumed": ", ".join(started[1:])} if len(started) > 1 else {}
        return {name: str(value) for name, value in processes[-1].items()} | {"started": started[0]} | resumed

    def tree_files(self) -> dict[int, Path]:
        """The file of each step with stored trees, steps ascending."""
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
    """Whether it is a number that a float can hold; infinite ones count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= MAX_NUMBER

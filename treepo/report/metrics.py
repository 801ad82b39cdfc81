"""metrics.jsonl: one JSON object per step."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from treepo.files import replace_lines

Metrics = dict[str, float]


@dataclass(frozen=True)
class MetricsLog:
    """Appends to and reads one metrics.jsonl."""

    path: Path

    def append(self, step: int, metrics: Metrics) -> None:
        """Write the object of one step; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Metrics]:
        """All objects, oldest first."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def cut(self, last_step: int) -> None:
        """Drop the objects of later steps, and a line that was not written to its end.

        Raises ValueError unless one object is left for each step up to `last_step`, from 0.
        """
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        kept = lines[: last_step + 1]
        if [_step_of(line) for line in kept] != list(range(last_step + 1)):
            raise ValueError(f"resume: {str(self.path)!r} lacks a line for a step before {last_step + 1}")
        replace_lines(self.path, kept)


def _step_of(line: bytes) -> int | None:
    """The step of a whole line, or None."""
    try:
        read = json.loads(line)
    except ValueError:
        return None
    return read.get("step") if isinstance(read, dict) and line.endswith(b"\n") else None

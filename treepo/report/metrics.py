"""metrics.jsonl: one JSON object per step."""

import json
from dataclasses import dataclass
from pathlib import Path

Metrics = dict[str, float]


@dataclass(frozen=True)
class MetricsLog:
    """Appends to and reads one metrics.jsonl."""

    path: Path

    def append(self, step: int, metrics: Metrics) -> None:
        """Write the object of one step; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")

    def read(self) -> list[Metrics]:
        """All objects, oldest first."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

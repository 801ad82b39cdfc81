"""metrics.jsonl while it grows, and after it was cut because the run was resumed."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treepo.report.metrics import Metrics


@dataclass
class MetricsFollower:
    """Reads one metrics.jsonl again and again, each line once while the file only grows.

    names: the metrics to keep of each line, besides `step`. log: what is there, oldest first.
    """

    path: Path
    names: frozenset[str]
    log: list[Metrics] = field(default_factory=list)
    _offset: int = 0
    _last_line: bytes = b""

    def refresh(self) -> int:
        """Read what is new; returns how many objects of before still stand at the beginning of `log`.

        A last line that is not written to its end is left for later. A file that is not there is as good as empty.
        Raises ValueError naming the file and line that cannot be read.
        """
        text = self._new_text()
        if text is not None:
            self._append(text)
            return len(self.log) - text.count(b"\n")
        before, self.log = self.log, []
        self._offset, self._last_line = 0, b""
        self._append(self._new_text() or b"")
        differing = (i for i, pair in enumerate(zip(before, self.log, strict=False)) if pair[0] != pair[1])
        return next(differing, min(len(before), len(self.log)))

    def _new_text(self) -> bytes | None:
        """Whole lines behind those that were read; None if the last one read is no longer where it was."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    return None
                text = file.read()
        except FileNotFoundError:
            return None if self._offset else b""
        except OSError as error:
            raise ValueError(f"{str(self.path)!r} cannot be read: {error.strerror}") from error
        return text[: text.rfind(b"\n") + 1]

    def _append(self, text: bytes) -> None:
        for line in text.split(b"\n")[:-1]:
            try:
                self.log.append(self._kept(json.loads(line)))
            except (ValueError, OverflowError, RecursionError) as error:
                number = len(self.log) + 1
                raise ValueError(f"{str(self.path)!r}, line {number}: no metrics of a step: {error}") from error
            self._offset += len(line) + 1
            self._last_line = line + b"\n"

    def _kept(self, read: Any) -> Metrics:
        if not isinstance(read, dict) or not isinstance(read.get("step"), int):
            raise ValueError("an object with a whole number 'step' was expected")
        kept = {name: read[name] for name in ("step", *self.names) if name in read}
        for name, value in kept.items():
            if not isinstance(value, int | float):
                raise ValueError(f"{name} must be a number, got {value!a:.50}")
        return {name: float(value) for name, value in kept.items()}

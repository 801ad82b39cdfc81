"""The state of a run, followed on disk while metrics.jsonl grows, or is cut because the run is resumed."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treepo.errors import SettingError
from treepo.report.run_log import Metrics
from treepo.utils.files import JSON_BYTES, open_plain
from treepo.utils.settings_file import read_toml


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
        """Read what is new; returns how many objects read before are still at the beginning of `log`.

        An incomplete last line is left for later; a missing file counts as empty. Raises SettingError naming the file
        and the line that cannot be read.
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
        """Complete lines after those read before, up to JSON_BYTES; None if those are no longer where they were."""
        try:
            with open_plain(self.path) as file:
                file.seek(self._offset - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    return None
                text = file.read(JSON_BYTES)
        except FileNotFoundError:
            return None if self._offset else b""
        except OSError as error:
            raise SettingError("watch", f"{str(self.path)!r} cannot be read: {error.strerror}") from error
        return text[: text.rfind(b"\n") + 1]

    def _append(self, text: bytes) -> None:
        for line in text.split(b"\n")[:-1]:
            try:
                self.log.append(self._kept(json.loads(line)))
            except (ValueError, OverflowError, RecursionError) as error:
                message = f"{str(self.path)!r}, line {len(self.log) + 1}: no metrics of a step: {error}"
                raise SettingError("watch", message) from error
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


NOT_BETTER = "eval/num_not_better"
"""Evaluations since the best one; a run stops at `eval.patience` of them."""

NUM_RECENT = 20
"""Steps over which the time of a step is averaged."""


@dataclass(frozen=True)
class RunState:
    """A run at one moment. num_steps: None before the run has its settings. age_s: seconds since the last step.
    patience: evaluations without a better one that end it; 0 for any number."""

    name: str
    num_steps: int | None
    log: tuple[Metrics, ...]
    age_s: float = 0.0
    patience: int = 0

    @property
    def last_step(self) -> int | None:
        """The last step in the log, 0 for the evaluation before training; None if there is none."""
        return int(self.log[-1]["step"]) if self.log else None

    @property
    def is_complete(self) -> bool:
        """Whether the last step is in the log, or one after which the run stops early."""
        if self.num_steps is None or self.last_step is None:
            return False
        is_over = 0 < self.patience <= (self.last(NOT_BETTER) or 0)
        return is_over or self.last_step >= self.num_steps

    @property
    def seconds_per_step(self) -> float | None:
        """Mean over the last steps, without evaluations; None before the first step."""
        seconds = self.recent("time/step_s")
        return sum(seconds) / len(seconds) if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated from `seconds_per_step`; None if unknown."""
        if self.num_steps is None or self.last_step is None or self.seconds_per_step is None:
            return None
        return max(self.num_steps - self.last_step, 0) * self.seconds_per_step

    def recent(self, name: str) -> list[float]:
        """The finite values of a metric in the last steps that have it."""
        values = [metrics[name] for metrics in self.log[-NUM_RECENT:] if name in metrics]
        return [value for value in values if math.isfinite(value)]

    def last(self, name: str) -> float | None:
        """The latest value of a metric, at whichever step."""
        return next((metrics[name] for metrics in reversed(self.log) if name in metrics), None)


@dataclass
class RunFollower:
    """Follows the state of the run in a folder."""

    path: Path
    follower: MetricsFollower
    clock: Callable[[], float] = time.time

    def read(self) -> tuple[RunState, int]:
        """(the state now, how many objects of the log were there before and still are).

        A run that is being prepared has no files yet. Raises SettingError if the path is no folder, holds other files
        but no run, or has a file that cannot be read.
        """
        num_steps, patience = self._settings()
        num_known = self.follower.refresh()
        log = self.follower.path
        age_s = max(self.clock() - log.stat().st_mtime, 0.0) if log.exists() else 0.0
        return RunState(str(self.path), num_steps, tuple(self.follower.log), age_s, patience), num_known

    def _settings(self) -> tuple[int | None, int]:
        """(train.num_steps, None before it is known; eval.patience)."""
        path = self.path / "config.toml"
        try:
            if not self.path.exists() or not any(self.path.iterdir()):
                return None, 0
            settings = read_toml(path)
            train, evaluation = settings.get("train"), settings.get("eval")
            num_steps = train.get("num_steps") if isinstance(train, dict) else None
            if not isinstance(num_steps, int):
                raise ValueError(f"train.num_steps must be a whole number, got {num_steps!r:.100}")
            patience = evaluation.get("patience") if isinstance(evaluation, dict) else 0
            return num_steps, patience if isinstance(patience, int) else 0
        except FileNotFoundError as error:
            raise SettingError("watch", f"{str(self.path)[:100]!r} holds no run: there is no config.toml") from error
        except OSError as error:
            message = f"{str(self.path)[:100]!r} cannot be read: {error.strerror or error}"
            raise SettingError("watch", message) from error
        except ValueError as error:
            if not self.follower.path.exists():
                # It is being written.
                return None, 0
            raise SettingError("watch", f"{str(path)!r} holds no settings of a run: {error}") from error

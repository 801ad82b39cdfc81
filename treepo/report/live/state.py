"""How far a run has come."""

import math
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from treepo.report.live.follow import MetricsFollower
from treepo.report.metrics import Metrics

NUM_RECENT = 20
"""Steps over which the time of a step is averaged."""


@dataclass(frozen=True)
class RunState:
    """A run at one moment. num_steps: None before the run has its settings. age_s: since the last object of `log`."""

    name: str
    num_steps: int | None
    log: tuple[Metrics, ...]
    age_s: float = 0.0

    @property
    def last_step(self) -> int | None:
        """The last one in the log, 0 for the evaluation before training."""
        return int(self.log[-1]["step"]) if self.log else None

    @property
    def is_complete(self) -> bool:
        """Whether the last step is in the log."""
        return self.num_steps is not None and self.last_step is not None and self.last_step >= self.num_steps

    @property
    def seconds_per_step(self) -> float | None:
        """Mean of the last steps, evaluations not counted; None before the first one."""
        seconds = self.recent("time/step_s")
        return sum(seconds) / len(seconds) if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """At that pace; None where that is not known."""
        if self.num_steps is None or self.last_step is None or self.seconds_per_step is None:
            return None
        return max(self.num_steps - self.last_step, 0) * self.seconds_per_step

    def recent(self, name: str) -> list[float]:
        """The finite values of a metric in the last steps that have it."""
        values = [metrics[name] for metrics in self.log[-NUM_RECENT:] if name in metrics]
        return [value for value in values if math.isfinite(value)]

    def last(self, name: str) -> float | None:
        """The newest value of a metric, of whichever step has it."""
        return next((metrics[name] for metrics in reversed(self.log) if name in metrics), None)


@dataclass
class RunFolder:
    """Follows the state of the run in a folder."""

    path: Path
    follower: MetricsFollower
    clock: Callable[[], float] = time.time

    def read(self) -> tuple[RunState, int]:
        """(the state now, how many objects of the log were there before and still stand).

        Nothing is there yet of a run that is being prepared. Raises ValueError if the path is no folder, holds other
        files but no run, or has a file that cannot be read.
        """
        num_steps = self._num_steps()
        num_known = self.follower.refresh()
        log = self.follower.path
        age_s = max(self.clock() - log.stat().st_mtime, 0.0) if log.exists() else 0.0
        return RunState(str(self.path), num_steps, tuple(self.follower.log), age_s), num_known

    def _num_steps(self) -> int | None:
        path = self.path / "config.toml"
        try:
            if not self.path.exists() or not any(self.path.iterdir()):
                return None
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ValueError(f"{str(self.path)[:100]!r} holds no run: there is no config.toml") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(self.path)[:100]!r} cannot be read: {error}") from error
        try:
            return _num_steps_in(text)
        except ValueError as error:
            if not self.follower.path.exists():
                # It is being written.
                return None
            raise ValueError(f"{str(path)!r} holds no settings of a run: {error}") from error


def _num_steps_in(recipe: str) -> int:
    train = tomllib.loads(recipe).get("train")
    num_steps = train.get("num_steps") if isinstance(train, dict) else None
    if not isinstance(num_steps, int):
        raise ValueError(f"train.num_steps must be a whole number, got {num_steps!r}")
    return num_steps

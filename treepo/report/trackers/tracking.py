"""One run's trackers together: none of them may stop it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from treepo.report.metrics import Metrics
from treepo.report.samples import Sample, harmless
from treepo.report.trackers.base import Tracker


class TrackerError(Exception):
    """A tracker cannot be started; the message says in one line which one and why."""


class Tracking:
    """Hands figures and samples to all trackers, by name; one that fails is dropped, which is said once."""

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self.trackers = dict(trackers)
        self.say = say

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        """Start all; raises TrackerError for the first that fails, with those before it finished."""
        started: dict[str, Tracker] = {}
        for name, tracker in self.trackers.items():
            try:
                tracker.start(config, run_name)
            except Exception as error:
                self.trackers = started
                self.finish()
                raise TrackerError(f"tracking.trackers: {name} cannot be started: {one_line(error)}") from error
            started[name] = tracker

    def log(self, step: int, metrics: Metrics) -> None:
        """The figures of a step."""
        self._each(lambda tracker: tracker.log(step, metrics))

    def table(self, step: int, rows: Sequence[Sample]) -> None:
        """Some trajectories of a step; nothing happens if there are none."""
        if rows:
            self._each(lambda tracker: tracker.table(step, rows))

    def finish(self) -> None:
        """Finish all."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, use: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                use(tracker)
            except Exception as error:  # noqa: BLE001 - packages raise what they like, and training goes on
                del self.trackers[name]
                self.say(f"{name} failed and gets nothing more; metrics.jsonl has it all: {one_line(error)}")


def one_line(error: Exception) -> str:
    """Kind and first line of what was said, which may quote what the model wrote."""
    first, *_ = str(error).strip().split("\n")
    return f"{type(error).__name__}: {harmless(first[:200])}"

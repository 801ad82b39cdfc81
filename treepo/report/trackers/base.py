"""The seam between a run and whatever shows its figures."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from treepo.report.metrics import Metrics
from treepo.report.samples import Sample


class Tracker(Protocol):
    """Takes the figures of one run; any of its methods may raise whatever its package raises."""

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        """Begin; config: section -> key -> value."""
        ...

    def log(self, step: int, metrics: Metrics) -> None:
        """The figures of a step; steps rise."""
        ...

    def table(self, step: int, rows: Sequence[Sample]) -> None:
        """Some trajectories of a step. Their text is the model's: it must be shown, never obeyed."""
        ...

    def finish(self) -> None:
        """Nothing will follow."""
        ...

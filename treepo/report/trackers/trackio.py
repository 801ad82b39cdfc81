"""Trackio: Hugging Face's tracker, kept on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from importlib import import_module
from typing import Any

from treepo.report.metrics import Metrics
from treepo.report.samples import COLUMNS, Sample


class Trackio:
    """A run of a project in TRACKIO_DIR, or where TRACKIO_SPACE_ID and TRACKIO_SERVER_URL say."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.package: Any = None
        self.run: Any = None

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        """See Tracker."""
        self.package = import_module("trackio")
        self.run = self.package.init(project=self.project, name=run_name, config=dict(config), embed=False)

    def log(self, step: int, metrics: Metrics) -> None:
        """See Tracker."""
        self.run.log(metrics, step=step)

    def table(self, step: int, rows: Sequence[Sample]) -> None:
        """See Tracker; cells are shown as they are, their first 250 characters."""
        data = [list(astuple(row)) for row in rows]
        self.run.log({"samples": self.package.Table(columns=list(COLUMNS), data=data)}, step=step)

    def finish(self) -> None:
        """See Tracker."""
        self.run.finish()

"""Weights & Biases."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from importlib import import_module
from pathlib import Path
from typing import Any

from treepo.report.metrics import Metrics
from treepo.report.samples import COLUMNS, Sample

START_S, FINISH_S = 30.0, 60.0
"""Longest waits in seconds: for a server that does not answer, and at the end for what is still to be sent."""


class WandB:
    """A run of a project, kept in `folder` and sent from there, or, offline, sent later by `wandb sync`."""

    def __init__(self, project: str, folder: Path, offline: bool) -> None:
        self.project = project
        self.folder = folder
        self.offline = offline
        self.package: Any = None
        self.run: Any = None

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        """See Tracker. What is printed, the code and the repository are left alone."""
        self.package = import_module("wandb")
        settings = self.package.Settings(
            init_timeout=START_S,
            login_timeout=START_S,
            finish_timeout=FINISH_S,
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
        )
        # Without a mode, WANDB_MODE decides.
        mode = "offline" if self.offline else None
        self.run = self.package.init(
            project=self.project, name=run_name, dir=str(self.folder), config=dict(config), mode=mode, settings=settings
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """See Tracker."""
        self.run.log(metrics, step=step)

    def table(self, step: int, rows: Sequence[Sample]) -> None:
        """See Tracker; cells are shown as they are."""
        table = self.package.Table(columns=list(COLUMNS), data=[list(astuple(row)) for row in rows])
        self.run.log({"samples": table}, step=step)

    def finish(self) -> None:
        """See Tracker."""
        self.run.finish()

"""Experiment trackers: TensorBoard, trackio, Weights & Biases."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import tomli_w

from treepo.errors import TrackerError
from treepo.report.run_log import COLUMNS, Metrics, SampleRow
from treepo.utils.files import read_plain
from treepo.utils.io import replace_text
from treepo.utils.text import error_line

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes the metrics and samples of one run; any of its methods may raise whatever its package raises."""

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        """Begin a run; config: section -> key -> value."""
        ...

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step; steps rise."""
        ...

    def table(self, step: int, rows: Sequence[SampleRow]) -> None:
        """Take some trajectories of a step. Their text is the model's: it must be shown, never interpreted."""
        ...

    def finish(self) -> None:
        """End the run; nothing will follow."""
        ...


class Tracking:
    """Hands metrics and samples to all trackers, by name; one that fails is dropped with a warning."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self.trackers = dict(trackers)

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        """Start all; raises TrackerError for the first that fails, with those before it finished."""
        started: dict[str, Tracker] = {}
        for name, tracker in self.trackers.items():
            try:
                tracker.start(config, run_name)
            except Exception as error:
                self.trackers = started
                self.finish()
                raise TrackerError(f"tracking.trackers: {name} cannot be started: {error_line(error)}") from error
            started[name] = tracker

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the metrics of a step."""
        self._each(lambda tracker: tracker.log(step, metrics))

    def table(self, step: int, rows: Sequence[SampleRow]) -> None:
        """Log some trajectories of a step; nothing happens if there are none."""
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
                logger.warning("%s failed and gets nothing more; metrics.jsonl has it all: %s", name, error_line(error))


class TensorBoard:
    """Event files in a folder, with settings and samples as texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        self.writer = import_module("torch.utils.tensorboard").SummaryWriter(str(self.folder))
        self.writer.add_text("config", as_code(f"{run_name}\n\n{tomli_w.dumps(config)}"), 0)

    def log(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def table(self, step: int, rows: Sequence[SampleRow]) -> None:
        # TensorBoard reads texts as Markdown.
        texts = ["\n".join(f"{name}: {value}" for name, value in row.cells().items()) for row in rows]
        self.writer.add_text("samples", as_code("\n\n".join(texts)), step)

    def finish(self) -> None:
        self.writer.close()


def as_code(text: str) -> str:
    """A block of Markdown in which nothing has a meaning: each line begins with four spaces."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


class RunTracker:
    """What trackio and Weights & Biases have in common: runs of a project, which take metrics and tables."""

    name: str
    """Name of the package."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.package: Any = None
        self.run: Any = None

    def settings(self) -> dict[str, Any]:
        """Arguments of the package's `init` besides project, name and config."""
        raise NotImplementedError

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        self.package = import_module(self.name)
        self.run = self.package.init(project=self.project, name=run_name, config=dict(config), **self.settings())

    def log(self, step: int, metrics: Metrics) -> None:
        self.run.log(metrics, step=step)

    def table(self, step: int, rows: Sequence[SampleRow]) -> None:
        # Cells are shown as they are; trackio shows their first 250 characters.
        table = self.package.Table(columns=list(COLUMNS), data=[list(row.cells().values()) for row in rows])
        self.run.log({"samples": table}, step=step)

    def finish(self) -> None:
        self.run.finish()


class Trackio(RunTracker):
    """A run of a project in TRACKIO_DIR, or where TRACKIO_SPACE_ID and TRACKIO_SERVER_URL say."""

    name = "trackio"

    def settings(self) -> dict[str, Any]:
        return {"embed": False}


START_S, FINISH_S = 30.0, 60.0
"""Longest waits in seconds: for a server that does not answer, and at the end for what is still to be sent."""


WANDB_ID = "wandb-id.txt"
"""The file in a run's folder that names its run of wandb."""

MAX_ID_BYTES = 100


class WandB(RunTracker):
    """A run of a project, kept in `folder` and sent from there, or, offline, sent later by `wandb sync`.

    options: entity, group and tags, as `wandb.init` takes them. The run's id is kept in `folder`, so that a run that is
    resumed goes on with the same one: steps that are made again are there already, and wandb drops them.
    """

    name = "wandb"

    def __init__(
        self, project: str, folder: Path, offline: bool, options: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__(project)
        self.folder = folder
        self.offline = offline
        self.options = options

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        super().start(config, run_name)
        if kept := _wandb_id(self.run.id):
            replace_text(self.folder / WANDB_ID, kept + "\n")

    def _known_id(self) -> str:
        """The id that was kept when the run began; empty if there is none."""
        try:
            return _wandb_id(read_plain(self.folder / WANDB_ID, MAX_ID_BYTES).decode("ascii").strip())
        except (OSError, ValueError):
            return ""

    def settings(self) -> dict[str, Any]:
        # Printed output, code and repository are not uploaded.
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
        options = dict(self.options)
        if known := self._known_id():
            options |= {"id": known, "resume": "allow"}
        return options | {"dir": str(self.folder), "mode": "offline" if self.offline else None, "settings": settings}


def _wandb_id(text: object) -> str:
    """The text if it can be an id of wandb's, else an empty one: anybody may have made the folder it stands in."""
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) else ""

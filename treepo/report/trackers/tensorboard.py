"""TensorBoard."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import tomli_w

from treepo.report.metrics import Metrics
from treepo.report.samples import Sample


class TensorBoard:
    """Event files in a folder, with settings and samples as texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        """See Tracker."""
        self.writer = import_module("torch.utils.tensorboard").SummaryWriter(str(self.folder))
        self.writer.add_text("config", as_code(f"{run_name}\n\n{tomli_w.dumps(config)}"), 0)

    def log(self, step: int, metrics: Metrics) -> None:
        """See Tracker."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def table(self, step: int, rows: Sequence[Sample]) -> None:
        """See Tracker; texts are read as Markdown there."""
        texts = ["\n".join(f"{name}: {value}" for name, value in asdict(row).items()) for row in rows]
        self.writer.add_text("samples", as_code("\n\n".join(texts)), step)

    def finish(self) -> None:
        """See Tracker."""
        self.writer.close()


def as_code(text: str) -> str:
    """A block of Markdown in which nothing has a meaning: each line begins with four spaces."""
    return "\n".join(f"    {line}" for line in text.split("\n"))

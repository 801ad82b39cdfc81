"""The trackers of a run: checked, started and finished."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from treepo.config.load import to_toml
from treepo.config.schema import Config, TrackingSettings
from treepo.errors import SettingError
from treepo.report.trackers import TensorBoard, Tracker, Tracking, Trackio, WandB

if TYPE_CHECKING:
    pass


def check_installed(settings: TrackingSettings) -> None:
    """Raise SettingError for the first tracker whose package is absent; nothing is imported."""
    for name in settings.trackers:
        spec = find_spec(name)
        # A folder of that name in the current one, such as wandb leaves behind, is no package.
        if spec is None or spec.origin is None:
            raise SettingError("tracking.trackers", f"{name} is not installed: pip install 'treepo[{name}]'")


@contextmanager
def tracked(config: Config, out: Path, is_first: bool = True) -> Iterator[Tracking]:
    """The trackers of the run in the folder `out`, started, and finished whatever happens.

    is_first: whether this is the process that has trackers. Raises TrackerError if one cannot be started.
    """
    settings = config.tracking if is_first else TrackingSettings()
    tracking = Tracking({name: make_tracker(name, settings, out) for name in settings.trackers})
    tracking.start(tomllib.loads(to_toml(config)), settings.run_name or out.resolve().name)
    try:
        yield tracking
    finally:
        tracking.finish()


def make_tracker(name: str, settings: TrackingSettings, out: Path) -> Tracker:
    """The tracker of that name, not started."""
    if name == "wandb":
        options = {"entity": settings.entity, "group": settings.group, "tags": list(settings.tags)}
        return WandB(settings.project, out, settings.offline, {key: value for key, value in options.items() if value})
    if name == "trackio":
        return Trackio(settings.project)
    assert name == "tensorboard", "the settings know their trackers"
    return TensorBoard(out / "tensorboard")

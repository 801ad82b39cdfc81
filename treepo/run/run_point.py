"""A run at one of its checkpoints, as it is named on the command line: RUN, RUN@STEP or RUN@best."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from treepo.config.load import read_recipe
from treepo.config.schema import Settings
from treepo.errors import SettingError

CONFIG = "config.toml"
BEST = "best"
RUN = "RUN"
"""What errors call the run, as the usage of commands does."""


@dataclass(frozen=True)
class RunPoint:
    """A run at one of its checkpoints. step: digits, `best`, or empty for the last one."""

    folder: Path
    step: str = ""

    @classmethod
    def parse(cls, text: str) -> "RunPoint":
        """Read RUN or RUN@STEP. Raises SettingError if there is no run."""
        if (point := cls.find(text)) is None:
            name, step = cls._split(text)
            folder = name if step and Path(name).is_dir() else text
            raise SettingError(RUN, f"{folder[:200]!r} holds no run: there is no {CONFIG}")
        return point

    @classmethod
    def find(cls, text: str) -> "RunPoint | None":
        """The same, or None if there is no run."""
        name, step = cls._split(text)
        for point in (cls(Path(text)), *([cls(Path(name), step)] if step else [])):
            with suppress(OSError, ValueError):
                if (point.folder / CONFIG).is_file():
                    return point
        return None

    @staticmethod
    def _split(text: str) -> tuple[str, str]:
        """(RUN, STEP) of RUN@STEP; without a step, it is empty."""
        name, at, step = text.rpartition("@")
        return (name, step) if at and (step.isdecimal() or step == BEST) else (text, "")

    def settings(self) -> Settings:
        """The settings of the run, which anybody may have written. Raises SettingError if they cannot be read."""
        try:
            return read_recipe(self.folder / CONFIG)
        except SettingError as error:
            raise SettingError(RUN, error.message) from error

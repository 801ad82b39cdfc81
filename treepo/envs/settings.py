"""The settings of environments of several turns."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from treepo.errors import SettingError
from treepo.utils import GIVEN
from treepo.utils.imports import make_importable

BUILT_IN = {"maze": "treepo.tasks.maze:Maze", "calculator": "treepo.tasks.calculator:Calculator"}
"""The environments of built-in tasks, each by the name of its task."""


@dataclass(frozen=True)
class EnvironmentSettings:
    """What answers the model, turn by turn, if something does."""

    factory: str = ""
    """What makes environments, a class or a function as module:name; none if empty: a single turn. maze, calculator:
    those of the built-in tasks."""

    max_turns: int = 8
    """Most turns of a trajectory."""

    max_observed_tokens: int = 1024
    """Most tokens that a trajectory observes: what the environment and the chat template write between turns. The
    engine holds a prompt, a response and these."""

    num_workers: int = 32
    """Calls into environments at a time, in threads."""

    timeout_s: float = 60.0
    """Seconds after which a call into an environment is given up, and its trajectory with it."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_observed_tokens", "num_workers"):
            if getattr(self, name) < 1:
                raise SettingError(name, "must be at least 1", getattr(self, name))
        if not self.timeout_s > 0:
            raise SettingError("timeout_s", "must be positive", self.timeout_s)
        if self.factory and ":" not in self.factory and self.factory not in BUILT_IN:
            raise SettingError("factory", f"must be module:name, {' or '.join(BUILT_IN)}", self.factory)

    @property
    def is_given(self) -> bool:
        """Whether there is an environment."""
        return bool(self.factory)

    @property
    def num_observed_tokens(self) -> int:
        """Most tokens of a trajectory that are neither prompt nor response."""
        return self.max_observed_tokens if self.is_given else 0

    def load(self, given: Callable[[], Any] | None = None) -> Callable[[], Any]:
        """The factory; given: that of a program, which the settings name only. Raises SettingError."""
        if self.factory.startswith(GIVEN):
            if given is None:
                message = "was given by a program; give it again, as TreePOTrainer(environment=...)"
                raise SettingError("environment.factory", message, self.factory)
            return given
        module, _, attribute = BUILT_IN.get(self.factory, self.factory).partition(":")
        make_importable(module)
        try:
            found = getattr(importlib.import_module(module), attribute)
        # An import runs the module, which may raise anything; SystemExit is no Exception.
        except (Exception, SystemExit) as error:
            raise SettingError("environment.factory", f"cannot be imported: {error!r:.300}", self.factory) from error
        if not callable(found):
            raise SettingError("environment.factory", "must name something callable", self.factory)
        return found


def name_of(factory: Callable[[], Any]) -> str:
    """What stands for a program's factory in the settings."""
    return f"{GIVEN}{getattr(factory, '__qualname__', type(factory).__name__)}"

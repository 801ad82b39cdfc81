"""The settings of environments of several turns."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from treepo.envs.tools import ToolSet
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

    tools: tuple[str | Callable[..., Any], ...] = ()
    """Functions that the model may call, each module:function with type hints and a Google docstring."""

    tool_factory: str | Callable[..., Any] = ""
    """What makes objects with `reset` whose other public methods are tools, as TRL's environment_factory does:
    module:Class."""

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
        named = {"factory": [self.factory], "tools": self.tools, "tool_factory": [self.tool_factory]}
        known = {"factory": BUILT_IN}
        for name, values in named.items():
            for value in values:
                if isinstance(value, str) and value and ":" not in value and value not in known.get(name, ()):
                    *names, last = "module:name", *known.get(name, ())
                    raise SettingError(name, f"must be {' or '.join(filter(None, [', '.join(names), last]))}", value)
        if self.factory and self.has_tools:
            raise SettingError("tools", "are for runs without environment.factory, which makes its own turns")

    @property
    def has_tools(self) -> bool:
        """Whether the model may call tools."""
        return bool(self.tools or self.tool_factory)

    @property
    def is_given(self) -> bool:
        """Whether there is an environment."""
        return bool(self.factory) or self.has_tools

    @property
    def names(self) -> tuple[str, ...]:
        """What the model meets, each as module:name."""
        given = [BUILT_IN.get(self.factory, self.factory), *self.tools, self.tool_factory]
        found = (one if isinstance(one, str) else f"{one.__module__}:{_qualname(one)}" for one in given)
        return tuple(name for name in found if name)

    @property
    def num_observed_tokens(self) -> int:
        """Most tokens of a trajectory that are neither prompt nor response."""
        return self.max_observed_tokens if self.is_given else 0

    def check(self) -> None:
        """Raise SettingError if something that is named cannot be imported."""
        if self.has_tools:
            self.tool_set()
        elif self.factory:
            self.load()

    def load(self, given: Callable[[], Any] | None = None) -> Callable[[], Any]:
        """The factory; given: that of a program, which the settings name only. Raises SettingError."""
        if self.factory.startswith(GIVEN):
            if given is None:
                message = (
                    "was given by a program; give it again, as TreePOTrainer(environment=...) or as module:name on the "
                    "command line"
                )
                raise SettingError("environment.factory", message, self.factory)
            return given
        return _imported(BUILT_IN.get(self.factory, self.factory), "environment.factory")

    def tool_set(self) -> ToolSet | None:
        """The tools, if there are some. Raises SettingError."""
        if not self.has_tools:
            return None
        functions = [_imported(tool, "environment.tools") for tool in self.tools]
        factory = _imported(self.tool_factory, "environment.tool_factory") if self.tool_factory else None
        return ToolSet.of(functions, factory)


def _imported(named: str | Callable[..., Any], setting: str) -> Callable[..., Any]:
    """What module:name stands for; raises SettingError if it cannot be imported or called."""
    if not isinstance(named, str):
        return named
    module, _, attribute = named.partition(":")
    make_importable(module)
    try:
        found = getattr(importlib.import_module(module), attribute)
    # An import runs the module, which may raise anything; SystemExit is no Exception.
    except (Exception, SystemExit) as error:
        raise SettingError(setting, f"cannot be imported: {error!r:.300}", named) from error
    if not callable(found):
        raise SettingError(setting, "must name something callable", named)
    return found


def name_of(factory: Callable[[], Any]) -> str:
    """What stands for a program's factory in the settings."""
    return f"{GIVEN}{_qualname(factory)}"


def _qualname(value: Callable[..., Any]) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)

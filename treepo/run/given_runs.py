"""Runs that `treepo eval` is given in place of models: their settings are the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any

from treepo.config.schema import Settings
from treepo.data.tasksets import is_taskset
from treepo.errors import SettingError
from treepo.run.run_point import RunPoint
from treepo.utils import GIVEN

SECTIONS = (
    "data",
    "prompt",
    "verifier",
    "verifier_pool",
    "tree",
    "initial_fork",
    "branching",
    "fallback",
    "stopping",
    "environment",
    "engine",
    "vllm",
    "eval",
)
"""Sections of a run's settings that hold for its evaluation."""

SHARED = ("data", "prompt", "verifier", "environment")
"""Those that several runs must agree about."""

PARTS = {"function": "FunctionVerifier", "tasksets": "TasksetVerifier"}
"""Parts that run the code that a setting of theirs names."""


def runs_among(models: Sequence[str]) -> dict[str, RunPoint]:
    """The models, by name, that are runs, as RUN or RUN@STEP; others are folders and names of models."""
    return {model: point for model in models if (point := RunPoint.find(model)) is not None}


def default_settings(runs: Mapping[str, RunPoint], given: Settings, trust_run_code: bool) -> Settings:
    """The settings that an evaluation of runs has unless others are given: those of the first run.

    given: settings from elsewhere, which win. trust_run_code: see `_check_code`. Raises SettingError if runs disagree
    about problems, prompts, the verifier or the environment, and nothing else is given for these.
    """
    if not runs:
        return {}
    (first, settings), *others = ((name, _kept(point)) for name, point in runs.items())
    for name, other in others:
        differing = [key for key in SHARED if key not in given and other.get(key) != settings.get(key)]
        if differing:
            message = f"{first!r} and {name!r} have different settings of [{differing[0]}]; name some (--recipe)"
            raise SettingError("MODEL", message)
    if not trust_run_code:
        _check_code(settings, given)
    return settings


def _kept(point: RunPoint) -> dict[str, dict[str, Any]]:
    """Of a run's settings what holds for its evaluation; servers, the device and the base model are not among it."""
    read = point.settings()
    found = {key: dict(read[key]) for key in (*SECTIONS, "model", "train") if isinstance(read.get(key), Mapping)}
    if found.get("engine", {}).get("kind") == "servers":
        del found["engine"]["kind"]
    kept = {"model": ("dtype", "trust_remote_code"), "train": ("seed", "autocast")}
    for section, keys in kept.items():
        found[section] = {key: value for key, value in found.get(section, {}).items() if key in keys}
    return found


def listed(value: Any) -> Sequence[Any]:
    """The values of a setting that may be one or several."""
    return value if isinstance(value, list | tuple) else [value]


def _check_code(settings: Settings, given: Settings) -> None:
    """Raise SettingError for code that a run's settings name, unless others take their place: a run's folder may come
    from anybody."""
    named = {(section, "use"): values["use"] for section, values in settings.items() if ":" in str(values.get("use"))}
    for key in ("function", "tasksets"):
        if value := settings.get("verifier", {}).get(key):
            named["verifier", key] = value
    for key in ("factory", "tools", "tool_factory"):
        value = settings.get("environment", {}).get(key, "")
        names = [str(name) for name in listed(value)]
        # The factory of a program has a name that is never imported.
        harmless = (GIVEN, "treepo.") if key == "factory" else "treepo."
        if any(":" in name and not name.startswith(harmless) for name in names):
            named["environment", key] = value
    data = {**settings.get("data", {}), **given.get("data", {})}
    # Training data is not read beside evaluation data.
    key = "eval" if data.get("eval") else "train"
    if any(is_taskset(str(one)) for one in listed(data.get(key, ()))):
        named["data", key] = data[key]
    if settings.get("model", {}).get("trust_remote_code"):
        named["model", "trust_remote_code"] = True
    for (section, key), value in named.items():
        other = given.get(section, {})
        # The same part again keeps what the run gives it, and so does a default.
        kept = (None, settings.get(section, {}).get("use"), PARTS.get(key))
        if key not in other and other.get("use") in kept:
            message = "the run names code to be run; give --trust-run-code if you trust it, or another value"
            raise SettingError(f"{section}.{key}", message, value)

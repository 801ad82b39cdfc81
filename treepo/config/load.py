"""Settings as text: read from a recipe, overridden on the command line, kept in the run folder.

Where behaviour can be exchanged (the sections typed by a protocol), `use` names another class: one from the same
package, or `module:Class` for one's own.
"""

import dataclasses
import importlib
import inspect
import math
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import tomli_w
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from treepo.config.schema import Config, Settings
from treepo.errors import SettingError

T = TypeVar("T")


def resolve(*layers: Settings) -> Config:
    """The settings of a run; see `resolve_as`."""
    return resolve_as(Config, *layers)


def resolve_as(cls: type[T], *layers: Settings) -> T:
    """The settings of the given layers, later ones on top of earlier ones, on top of the defaults of `cls`.

    cls: a dataclass of sections, as Config is. Raises ValueError naming section, key and value for whatever is unknown,
    of a wrong type or impossible.
    """
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            if not isinstance(values, Mapping):
                raise ValueError(f"{section}: expected a table of settings, got {values!r}")
            known = merged.setdefault(section, {})
            if "use" in values and values["use"] != known.get("use"):
                known.clear()
            known.update(values)
    sections = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    for section in merged:
        if section not in sections:
            raise ValueError(f"unknown section {section!r}; there are {', '.join(sections)}")
    return cls(**{name: _build(sections[name], values) for name, values in merged.items()})


def read_recipe(path: Path) -> Settings:
    """The settings of a TOML file; raises ValueError naming the file if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"recipe: cannot read {str(path)!r}: {error}") from error


def to_toml(config: Config) -> str:
    """A recipe that resolves to the same settings."""
    tables = {}
    for section in dataclasses.fields(Config):
        value = getattr(config, section.name)
        table = {k: v for k, v in dataclasses.asdict(value).items() if v is not None}
        tables[section.name] = {"use": _name(section, value)} | table if is_exchangeable(section) else table
    return tomli_w.dumps(tables)


def is_exchangeable(section: dataclasses.Field[Any]) -> bool:
    """Whether the class of a section can be chosen with `use`."""
    return getattr(section.type, "_is_protocol", False)


def _build(section: dataclasses.Field[Any], values: Mapping[str, Any]) -> Any:
    """An instance of the section's class, or of the one that `use` names, on top of the section's defaults."""
    default: Any = section.default
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "use"}
    chosen = type(default)
    if "use" in values:
        if not is_exchangeable(section):
            raise ValueError(f"{section.name}.use: this section has one class, {chosen.__name__}")
        chosen = _find(section, str(values["use"]))
    known = [f.name for f in dataclasses.fields(chosen)]
    for key, value in fields.items():
        if key not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"{section.name}.{key}: unknown setting; {chosen.__name__} has {names}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{section.name}.{key}: must be a finite number, got {value}")
    for f in dataclasses.fields(chosen):
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in fields:
            raise ValueError(f"{section.name}.{f.name}: {chosen.__name__} needs a value")
    base = {name: getattr(default, name) for name in known} if chosen is type(default) else {}
    hints = get_type_hints(chosen, include_extras=True)
    checked = {key: _checked(f"{section.name}.{key}", hints[key], value) for key, value in fields.items()}
    try:
        return chosen(**base | checked)
    except SettingError as error:
        raise error.within(section.name) from error
    except ValueError as error:
        message = str(error)
        raise ValueError(f"{section.name}{'.' if message.split(maxsplit=1)[0] in known else ': '}{message}") from error
    except TypeError as error:
        raise ValueError(f"{section.name}: {chosen.__name__} cannot be made: {error}") from error


def _find(section: dataclasses.Field[Any], use: str) -> type:
    """The dataclass that `use` names; it must be callable as the section's protocol is."""
    module, _, name = use.rpartition(":")
    if not module:
        home = vars(importlib.import_module(_home(section))) | vars(sys.modules[type(section.default).__module__])
        known = {own: value for own, value in home.items() if not _misfit(section, value)}
        if name not in known:
            raise ValueError(f"{section.name}.use: no {use!r}; there are {', '.join(sorted(known))}")
        return known[name]
    try:
        chosen = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{section.name}.use: cannot find {use!r}: {error}") from error
    if misfit := _misfit(section, chosen):
        raise ValueError(f"{section.name}.use: {use!r} {misfit}")
    return chosen


def _misfit(section: dataclasses.Field[Any], chosen: object) -> str:
    """Why something cannot be the section's class; empty if it can."""
    if not (isinstance(chosen, type) and dataclasses.is_dataclass(chosen)):
        return "is not a dataclass"
    wanted, given = _arguments(section.type), _arguments(chosen)
    if given != wanted:
        return f"is called with {given}, but must be with {wanted}"
    missing = [name for name in _methods(section.type) if not hasattr(chosen, name)]
    return f"lacks {', '.join(missing)}" if missing else ""


def _methods(protocol: Any) -> list[str]:
    """Public methods, properties and class variables that a protocol declares, besides the call."""
    return [name for name in (*vars(protocol), *inspect.get_annotations(protocol)) if not name.startswith("_")]


def _arguments(cls: Any) -> list[str]:
    """Names of the arguments that instances of a class are called with; none if they are not called."""
    calls = [vars(c)["__call__"] for c in cls.__mro__ if "__call__" in vars(c)]
    return list(inspect.signature(calls[0]).parameters)[1:] if calls else []


def _name(section: dataclasses.Field[Any], value: object) -> str:
    cls = type(value)
    return cls.__name__ if cls.__module__.startswith(_home(section) + ".") else f"{cls.__module__}:{cls.__name__}"


def _home(section: dataclasses.Field[Any]) -> str:
    """The package in which a bare class name is looked up: that of the section's default."""
    return type(section.default).__module__.rpartition(".")[0]


def _as_declared(hint: Any, value: object) -> object:
    """The value; where several texts or numbers are declared, one stands for itself without brackets.

    A whole number among texts stands for its own: on the command line nothing tells 99 from "99".
    """
    if hint not in (tuple[str, ...], tuple[float, ...]):
        return value
    several = value if isinstance(value, tuple) else (value,)
    if hint == tuple[float, ...]:
        return several
    return tuple(str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in several)


def _checked(place: str, hint: Any, value: object) -> Any:
    """The value if it is of the type that its setting declares; no text is taken for a number, no number for a flag."""
    try:
        return TypeAdapter(hint).validate_python(_as_declared(hint, value), strict=True)
    except ValidationError as error:
        raise ValueError(f"{place}: {error.errors()[0]['msg']}, got {value!r}") from error
    except PydanticSchemaGenerationError as error:
        raise ValueError(f"{place}: a setting of type {hint!r} cannot stand in a recipe") from error

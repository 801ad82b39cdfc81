"""Settings as text: read from a recipe, overridden on the command line, kept in the run folder.

In sections that are typed by a protocol, `use` names another class of the same package, or the user's `module:Class`.
"""

import dataclasses
import importlib
import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import tomli_w
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from treepo.config.libraries import LIBRARIES
from treepo.config.schema import ENVIRONMENTS, Config, Settings
from treepo.config.suggest import suggest
from treepo.errors import SettingError
from treepo.utils.imports import make_importable
from treepo.utils.settings_file import read_toml
from treepo.utils.text import holds_nul, is_unicode
from treepo.verify import Verifier

T = TypeVar("T")
MAX_WHOLE = 2**63 - 1
MAX_NUMBER = 1e30
"""Bounds of numbers: libraries count in 64 bits, and float32 ends at 3e38."""

Section = dataclasses.Field[Any]
"""A field of Config: name, type (a dataclass or, where `use` chooses among several, their protocol) and default."""


def resolve(*layers: Settings) -> Config:
    """The settings of a run; see `resolve_as`. Where all datasets are those of a library, its own defaults hold, and
    so do those of a built-in task of several turns."""
    return resolve_as(Config, _of_library(layers), _of_task(layers), *layers)


def _of_task(layers: Sequence[Settings]) -> Settings:
    """ENVIRONMENTS of the built-in task that layers name, if no dataset is given."""
    names = [layer.get("task", {}) for layer in layers]
    named = [task.get("name") if isinstance(task, Mapping) else getattr(task, "name", None) for task in names]
    last = next((name for name in reversed(named) if isinstance(name, str)), "")
    return {} if any(_sources(layers)) else ENVIRONMENTS.get(last, {})


def _of_library(layers: Sequence[Settings]) -> Settings:
    """The defaults of the library whose all datasets are, without the sections for which something else is given.

    Raises SettingError if some datasets are a library's and others not, and no verifier is named.
    """
    sources = _sources(layers)
    library = next((library for library in LIBRARIES if any(map(library.makes, sources))), None)
    if library is None:
        return {}
    kept = {name: own for name, own in library.defaults.items() if not any(_decides(name, own, x) for x in layers)}
    others = [source for source in sources if not library.makes(source)]
    if others and "verifier" in kept:
        raise SettingError("verifier.use", f"name one that judges both {library.problems} and those of {others[0]!r}")
    return {} if others else kept


def _sources(layers: Sequence[Settings]) -> list[str]:
    """The datasets that layers name, the last one of each kind; what is no text is refused elsewhere."""
    given: dict[str, Any] = {}
    for layer in layers:
        data: Any = layer.get("data", {})
        for name in ("train", "eval"):
            value = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
            given[name] = given.get(name, ()) if value is None else value
    listed = [[value] if isinstance(value, str) else value for value in given.values()]
    return [one for value in listed if isinstance(value, list | tuple) for one in value if isinstance(one, str)]


def _decides(section: str, defaults: Mapping[str, Any], layer: Settings) -> bool:
    """Whether settings of a layer take the place of a library's defaults of a section."""
    values: Any = layer.get(section, {})
    return not isinstance(values, Mapping) or bool(defaults.keys() & values.keys())


def resolve_as(cls: type[T], *layers: Settings) -> T:
    """Settings from layers, later ones on top of earlier ones, on top of the defaults of `cls`.

    cls: a dataclass of sections, as Config is. Raises SettingError with section and key for whatever is unknown, of a
    wrong type or impossible.
    """
    sections = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    merged: dict[str, dict[str, Any]] = {}
    objects: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            if section not in sections:
                keys = list(values) if isinstance(values, Mapping) else []
                meant = next(filter(None, (suggest(name, setting_names(cls)) for name in [*keys, section])), "")
                raise SettingError(section, f"unknown section; there are {', '.join(sections)}{meant}")
            if not isinstance(values, Mapping):
                objects[section] = _checked_object(sections[section], values)
                merged.pop(section, None)
                continue
            before = merged.setdefault(section, {})
            if "use" in values and values["use"] != before.get("use"):
                before.clear()
            before.update({key: _on_top(before.get(key), value) for key, value in values.items()})
    built = {n: _build(sections[n], v) if n not in objects else _changed(objects[n], n, v) for n, v in merged.items()}
    return cls(**(objects | built))


def _checked_object(section: Section, value: object) -> object:
    """An object that a program gives for a whole section; raises SettingError if it cannot be one."""
    if not is_exchangeable(section):
        wanted = type(section.default)
        if not isinstance(value, wanted):
            raise SettingError(section.name, "expected a table of settings", value)
        return value
    wanted, given = _arguments(section.type), _arguments(type(value))
    if isinstance(value, type) or (given[: len(wanted)] != wanted and not _takes_as_many(value, len(wanted))):
        raise SettingError(section.name, f"must be an object that is called with {wanted}", value)
    missing = [name for name in _declared(section) if not hasattr(value, name)]
    if missing:
        raise SettingError(section.name, f"{type(value).__name__} lacks {', '.join(missing)}", value)
    return value


def _takes_as_many(value: object, count: int) -> bool:
    """Whether something can be called with so many arguments by position."""
    try:
        inspect.signature(cast(Any, value)).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def _changed(value: Any, name: str, changes: Mapping[str, Any]) -> Any:
    """An object with some of its fields changed, as settings on top of it say."""
    hints = get_type_hints(type(value), include_extras=True)
    if unknown := [key for key in changes if key not in hints]:
        raise SettingError(f"{name}.{unknown[0]}", f"unknown setting of {type(value).__name__}")
    checked = {key: _checked(f"{name}.{key}", hints[key], new) for key, new in changes.items()}
    try:
        return dataclasses.replace(value, **checked)
    except SettingError as error:
        raise error.within(name) from error


def _on_top(before: object, value: object) -> object:
    """A value over an earlier one; of two tables the entries of both."""
    return {**before, **value} if isinstance(before, Mapping) and isinstance(value, Mapping) else value


def read_recipe(path: Path) -> Settings:
    """The settings of a TOML file; raises SettingError if it cannot be read."""
    try:
        return read_toml(path)
    except FileNotFoundError as error:
        hint = "`treepo recipes` lists those that come with treepo, and copies one"
        raise SettingError("recipe", f"cannot read {str(path)!r}: {error.strerror}; {hint}") from error
    except OSError as error:
        raise SettingError("recipe", f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingError("recipe", f"cannot read {str(path)!r}: {error}") from error


def to_toml(config: Config) -> str:
    """A recipe that resolves to the same settings."""
    tables = {}
    for section in dataclasses.fields(Config):
        value = getattr(config, section.name)
        table = _plain_fields(value) if dataclasses.is_dataclass(value) else {}
        if is_exchangeable(section):
            is_ours = type(value).__module__.startswith(_package(section) + ".")
            table = {"use": type(value).__name__ if is_ours else _qualified_name(value)} | table
        tables[section.name] = table
    return tomli_w.dumps(tables)


def _plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a section as TOML holds them; functions and objects that a program gave, by their names."""
    return {
        f.name: _plain(_plain_fields(own) if dataclasses.is_dataclass(own) and not isinstance(own, type) else own)
        for f in dataclasses.fields(value)
        if (own := getattr(value, f.name)) is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool | int | float | str):
        return value
    return _qualified_name(value)


def _qualified_name(value: Any) -> str:
    """module:Class of an object, module:function of a function."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def is_exchangeable(section: Section) -> bool:
    """Whether the class of a section can be chosen with `use`."""
    return getattr(section.type, "_is_protocol", False)


def known_classes(section: Section) -> dict[str, type]:
    """The classes that `use` can name without a module: those of the package, and of the module, of the default."""
    found = vars(importlib.import_module(_package(section))) | vars(sys.modules[type(section.default).__module__])
    return {name: value for name, value in found.items() if not _misfit(section, value)}


def setting_names(cls: type) -> list[str]:
    """Every setting of a class of sections, as `section.key`; of sections with `use`, those of the default class."""
    names = []
    for section in dataclasses.fields(cast(Any, cls)):
        names += [f"{section.name}.use"] if is_exchangeable(section) else []
        names += [f"{section.name}.{f.name}" for f in dataclasses.fields(cast(Any, type(section.default)))]
    return names


def _build(section: Section, values: Mapping[str, Any]) -> Any:
    """An instance of the section's class, or of the one that `use` names, on top of the section's defaults."""
    chosen = _chosen_class(section, values)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, chosen))}
    hints = get_type_hints(chosen, include_extras=True)
    checked = {}
    for key, value in values.items():
        if key == "use":
            continue
        path = f"{section.name}.{key}"
        if key not in fields:
            others = [f"{section.name}.{name}" for name in fields]
            meant = suggest(path, [*others, *setting_names(Config)])
            raise SettingError(path, f"unknown setting; {chosen.__name__} has {', '.join(fields) or 'none'}{meant}")
        checked[key] = _checked(path, hints[key], value)
    try:
        if chosen is type(section.default):
            return dataclasses.replace(cast(Any, section.default), **checked)
        for name, f in fields.items():
            if name not in checked and f.default is f.default_factory is dataclasses.MISSING:
                raise SettingError(name, f"{chosen.__name__} needs a value")
        return chosen(**checked)
    except SettingError as error:
        raise error.within(section.name) from error
    # A settings class of the user's own refuses its values as it likes.
    except (TypeError, ValueError) as error:
        raise SettingError(section.name, f"{chosen.__name__} cannot be made: {error}") from error


def _chosen_class(section: Section, values: Mapping[str, Any]) -> type:
    """The class of the section; where `use` names one, it must be callable as the section's protocol is."""
    if "use" not in values:
        return type(section.default)
    path, use = f"{section.name}.use", str(values["use"])
    if not is_exchangeable(section):
        raise SettingError(path, f"this section has one class, {type(section.default).__name__}")
    module, _, name = use.rpartition(":")
    if not module:
        known = known_classes(section)
        if name not in known:
            raise SettingError(path, f"no {use!r}; there are {', '.join(sorted(known))}")
        return known[name]
    if not all(part.isidentifier() for part in module.split(".")):
        raise SettingError(path, f"cannot find {use!r}: it is not written module:Class")
    try:
        make_importable(module)
        chosen = getattr(importlib.import_module(module), name)
    # RecursionError: a name of thousands of parts.
    except (ImportError, AttributeError, RecursionError) as error:
        raise SettingError(path, f"cannot find {use!r}: {error}") from error
    if misfit := _misfit(section, chosen):
        raise SettingError(path, f"{use!r} {misfit}")
    return chosen


def _misfit(section: Section, chosen: object) -> str:
    """Why something cannot be the section's class; empty if it can."""
    if not (isinstance(chosen, type) and dataclasses.is_dataclass(chosen)):
        return "is not a dataclass"
    wanted, given = _arguments(section.type), _arguments(chosen)
    # A verifier may ask for columns of the record besides (see treepo.verify.columns).
    if given != wanted and not (section.type is Verifier and given[: len(wanted)] == wanted):
        return f"is called with {given}, but must be with {wanted}"
    missing = [name for name in _declared(section) if not hasattr(chosen, name)]
    return f"lacks {', '.join(missing)}" if missing else ""


def _declared(section: Section) -> list[str]:
    """What the protocol of a section asks for besides a call."""
    names = (*vars(cast(Any, section.type)), *inspect.get_annotations(cast(Any, section.type)))
    return [name for name in names if not name.startswith("_")]


def _arguments(cls: Any) -> list[str]:
    """Names of the arguments that instances of a class are called with; none if they are not called."""
    calls = [vars(c)["__call__"] for c in cls.__mro__ if "__call__" in vars(c)]
    return list(inspect.signature(calls[0]).parameters)[1:] if calls else []


def _package(section: Section) -> str:
    return type(section.default).__module__.rpartition(".")[0]


def _checked(path: str, hint: Any, value: object) -> Any:
    """The value if it is of the type that its setting declares; no text is taken for a number, no number for a flag.

    Where several texts or numbers are declared, one stands for itself without brackets, and a whole number among texts
    for its own digits: on the command line nothing tells 99 from "99".
    """
    _check_numbers(path, value)
    value = declared = tuple(value) if isinstance(value, list) else value
    bare = hint.__origin__ if hasattr(hint, "__metadata__") else hint
    if get_args(bare)[1:] == (Ellipsis,) and not isinstance(declared, tuple):
        declared = (declared,)
    if hint == tuple[str, ...]:
        declared = tuple(str(v) if type(v) is int else v for v in cast(tuple[Any, ...], declared))
    if not is_unicode(declared):
        raise SettingError(path, "holds characters that are no text in UTF-8", value)
    if holds_nul(declared):
        raise SettingError(path, "holds a null character", value)
    try:
        return TypeAdapter(hint).validate_python(declared, strict=True)
    except ValidationError as error:
        raise SettingError(path, error.errors()[0]["msg"], value) from error
    except PydanticSchemaGenerationError as error:
        raise SettingError(path, f"a setting of type {hint!r} cannot stand in a recipe") from error


def _check_numbers(path: str, value: object) -> None:
    """Raise SettingError for a number, also one of a list, that is not finite or larger than what computes with it."""
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise SettingError(path, "must be a finite number", value)
        most = MAX_NUMBER if isinstance(number, float) else MAX_WHOLE
        if isinstance(number, int | float) and abs(number) > most:
            # Thousands of digits make no message.
            raise SettingError(path, f"must be within {-most:g}..{most:g}")

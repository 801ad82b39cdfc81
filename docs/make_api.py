"""Writes docs/api.md from the docstrings of the public names: python docs/make_api.py."""

import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import treepo
from treepo.config.help import setting_docs

PAGE = Path(__file__).parent / "api.md"

INTRODUCTION = """# Public names

What `import treepo` offers. [python.md](python.md) shows how it goes together; settings with their legal values are in
[settings.md](settings.md). Lengths of arrays: N nodes of a tree, L leaves.

Written from the docstrings by `python docs/make_api.py`; a test holds it up to date."""

MAX_LINE = 100
"""Characters of a signature in one line."""

MAX_DEFAULT = 40
"""Characters of a default that is shown."""


def api_page() -> str:
    """docs/api.md: the names of `treepo`, then those of its folders that it names."""
    names = [name for name in treepo.__all__ if not name.startswith("_")]
    folders = [name for name in names if isinstance(getattr(treepo, name), ModuleType)]
    parts = [INTRODUCTION, "## treepo"]
    for name in names:
        if name not in folders:
            parts += _entry(f"treepo.{name}", getattr(treepo, name))
    seen = {id(getattr(treepo, name)): f"treepo.{name}" for name in names}
    for folder in folders:
        module = getattr(treepo, folder)
        parts += [f"## treepo.{folder}", _doc(module)]
        for name in module.__all__:
            value = getattr(module, name)
            if id(value) in seen:
                parts += [f"### treepo.{folder}.{name}", f"See {seen[id(value)]}."]
            else:
                parts += _entry(f"treepo.{folder}.{name}", value)
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(name: str, value: Any) -> list[str]:
    """Heading, signature, docstring and members."""
    parts = [f"### {name}"]
    if isinstance(value, types.GenericAlias):
        return [*parts, f"`{_type(value)}`"]
    if not inspect.isclass(value):
        return [*parts, f"```\n{_signature(name.rpartition('.')[2], value)}\n```", _doc(value)]
    if issubclass(value, Enum):
        return [*parts, _doc(value), "\n".join(f"- `{one.name}` = `{str(one)!r}`" for one in value)]
    if not getattr(value, "_is_protocol", False):
        parts.append(f"```\n{_signature(value.__name__, value)}\n```")
    parts.append(_doc(value))
    if is_dataclass(value):
        parts.append("\n".join(f"- `{field}`: {text}" for field, text in setting_docs(value).items()))
    return [*parts, "\n".join(_members(value))]


def _members(cls: type) -> Iterator[str]:
    """A line for each public method and property that the package defines."""
    for name, raw in inspect.getmembers_static(cls):
        if name.startswith("_") and name != "__call__":
            continue
        value = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        if isinstance(value, property):
            shown, value = f"`.{name}`", value.fget
        elif inspect.isfunction(value):
            shown = f"`{_signature('' if name == '__call__' else '.' + name, value, is_method=True)}`"
        else:
            continue
        if (getattr(value, "__module__", None) or "").startswith("treepo"):
            yield f"- {shown}: {' '.join(_doc(value).split())}".removesuffix(": ")


def _doc(value: Any) -> str:
    text = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    # An angle bracket would begin a tag.
    return text.replace("<", "\\<")


def _signature(name: str, value: Callable[..., Any], is_method: bool = False) -> str:
    """Name and parameters, one a line if they are many."""
    found = inspect.signature(value)
    given = list(found.parameters.values())
    if is_method and given and given[0].name in ("self", "cls"):
        given = given[1:]
    parts = [_parameter(one) for one in given]
    starred = any(one.kind is one.VAR_POSITIONAL for one in given)
    first = next((i for i, one in enumerate(given) if one.kind is one.KEYWORD_ONLY), None)
    if first is not None and not starred:
        parts.insert(first, "*")
    has_result = not inspect.isclass(value) and found.return_annotation is not inspect.Signature.empty
    result = f" -> {_type(found.return_annotation)}" if has_result else ""
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= MAX_LINE or is_method:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _parameter(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    text = f"{stars}{one.name}"
    if one.annotation is not one.empty:
        text += f": {_type(one.annotation)}"
    if one.default is not one.empty:
        default = repr(one.default)
        text += f" = {default if len(default) <= MAX_DEFAULT and '<' not in default else '...'}"
    return text


def _type(annotation: Any) -> str:
    """A type without its modules, which differ between versions of Python."""
    text = "None" if annotation is None else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text).replace("'", "")


if __name__ == "__main__":
    PAGE.write_text(api_page())

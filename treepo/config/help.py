"""Settings as documentation: what `treepo COMMAND --help` lists, and the page docs/settings.md.

Both are written from the schema: its types, defaults and docstrings. `python -m treepo.config.help > docs/settings.md`
writes the page anew.
"""

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from treepo.config.load import Section, is_exchangeable, known_classes
from treepo.config.schema import Config

TITLE = "settings, which can stand in a recipe and on the command line, which wins:"

BASIC_TYPES = {int: "integer", float: "number", str: "text", bool: "`true` or `false`"}
PLURALS = {int: "integers", float: "numbers", str: "texts"}
BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
BOUNDS |= {"min_length": "{} or more of them"}

INTRODUCTION = """# Settings

Every setting of `treepo train`, `treepo eval` and `treepo sample`. Each can stand in a recipe (TOML) and on the command
line, which wins:

```toml
[tree]
width = 16
```

```
treepo train RECIPE.toml --tree.width 16 --credit.use RLOO --data.train '["math", "dapo17k"]'
```

A value on the command line is read as TOML and taken as text if it is none. A single text or number may stand for a
list of one. In sections with `use`, another class does the work: one of those named, or your own dataclass as
`module:Class`, whose fields are then the section's settings. `treepo bench --help` lists the settings of benchmarks.

Written from the code by `python -m treepo.config.help`; a test holds it up to date."""


def settings_text(config: type, title: str = TITLE) -> str:
    """Every setting of a class of sections, for a terminal."""
    lines = [title]
    for section in dataclasses.fields(config):
        lines += ["", f"[{section.name}]  {_summary(type(section.default))}"]
        for path, values, default, about in _settings(section, type(section.default)):
            lines += [f"  --{path}  {values.replace('`', '')} (default: {default})", f"      {about}"]
    return "\n".join(lines)


def settings_page() -> str:
    """docs/settings.md: every setting of a run, those of classes that `use` can name too."""
    parts = [INTRODUCTION]
    for section in dataclasses.fields(Config):
        default = type(section.default)
        parts += [f"## [{section.name}]", _summary(default), _table(section, default)]
        for name, other in sorted(known_classes(section).items() if is_exchangeable(section) else ()):
            if other is not default:
                parts += [f'### {section.name}.use = "{name}"', _summary(other)]
                if dataclasses.fields(other):
                    parts.append(_table(section, other))
    return "\n\n".join(parts) + "\n"


def setting_docs(section: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, of inherited ones too."""
    classes = [cls for cls in section.__mro__ if dataclasses.is_dataclass(cls)]
    found = [param for cls in classes for param in parse_from_object(cls).params]
    return {param.arg_name: " ".join(param.description.split()) for param in found if param.description}


def describe_type(hint: Any) -> str:
    """The type of a setting with its legal values, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in BASIC_TYPES:
        return BASIC_TYPES[hint]
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in args)
    if origin is Annotated:
        constraints = [found for extra in args[1:] for found in getattr(extra, "metadata", [extra])]
        bounds = [
            text.format(getattr(c, name)) for c in constraints for name, text in BOUNDS.items() if hasattr(c, name)
        ]
        return ", ".join([describe_type(args[0]), *bounds])
    if origin is Mapping:
        return "table"
    if origin in (Union, UnionType):
        return " or ".join("not given" if arg is NoneType else describe_type(arg) for arg in args)
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        if args[0] in PLURALS:
            return f"list of {count}{PLURALS[args[0]]}"
        return f"list of {count}values, each {describe_type(args[0])}"
    return f"`{getattr(hint, '__name__', hint)}`"


def _settings(section: Section, cls: type) -> Iterator[tuple[str, str, str, str]]:
    """(`section.key`, type and legal values, default as TOML, docstring) of each setting of a section whose class is
    `cls`, beginning with `use` if the class is the default one."""
    if is_exchangeable(section) and cls is type(section.default):
        names = ", ".join(f"`{json.dumps(name)}`" for name in sorted(known_classes(section)))
        values, default = f"{names}, or `module:Class`", json.dumps(cls.__name__)
        yield f"{section.name}.use", values, default, "The class that does the work."
    docs, hints = setting_docs(cls), get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        value = getattr(section.default if cls is type(section.default) else cls, field.name, dataclasses.MISSING)
        default = "not given" if value is None else "none: must be given"
        if value is not None and value is not dataclasses.MISSING:
            default = json.dumps(value)
        yield f"{section.name}.{field.name}", describe_type(hints[field.name]), default, docs.get(field.name, "")


def _summary(cls: type) -> str:
    """The first paragraph of a class's docstring, without its errors."""
    paragraph = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    return " ".join(paragraph.partition("Raises ")[0].split())


def _table(section: Section, cls: type) -> str:
    rows = ["| Setting | Values | Default | |", "|---|---|---|---|"]
    for path, values, default, about in _settings(section, cls):
        cells = (f"`{path}`", values, default if default.startswith(("not given", "none:")) else f"`{default}`", about)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(settings_page(), end="")

"""Which settings of a run differ from their defaults."""

import dataclasses
import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

from treepo.config.load import Section, is_exchangeable, known_classes
from treepo.config.schema import Config


def changed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The default of each setting that has another value; None for one that has no default.

    settings: those of a run by `section.key`, as TOML holds them. Nothing that they name is imported: a section whose
    class is the user's own is compared by `use` alone.
    """
    changed: dict[str, Any] = {}
    for section in dataclasses.fields(Config):
        defaults = _defaults(section, settings.get(f"{section.name}.use"))
        for key, default in defaults.items():
            path = f"{section.name}.{key}"
            if path in settings and settings[path] != default:
                changed[path] = default
        if _is_ours(section, settings):
            # Settings without a default are not in a recipe unless somebody has given them.
            own = [path for path in settings if path.startswith(f"{section.name}.")]
            changed |= {path: None for path in own if path.partition(".")[2] not in defaults}
    return changed


def _is_ours(section: Section, settings: Mapping[str, Any]) -> bool:
    use = settings.get(f"{section.name}.use")
    return not is_exchangeable(section) or use is None or use in known_classes(section)


def _defaults(section: Section, use: object) -> dict[str, Any]:
    """The settings of a section by key, as TOML holds them, if its class is the one that `use` names."""
    default: Any = section.default
    own: dict[str, Any] = {"use": type(default).__name__} if is_exchangeable(section) else {}
    if use is not None and use != own.get("use"):
        cls = known_classes(section).get(str(use)) if own else None
        if cls is None:
            return own
        fields = dataclasses.fields(cls)
        known = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    else:
        known = dataclasses.asdict(default)
    table = {key: value for key, value in known.items() if value is not None}
    return own | tomllib.loads(tomli_w.dumps(table))

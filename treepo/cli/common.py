"""What all commands share: their options, and settings as `--section.key VALUE`."""

import argparse
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from treepo.errors import SettingError


class CommandParser(argparse.ArgumentParser):
    """The options of one command.

    settings_help: makes the part of `--help` that lists settings; called for `--help` alone, since it loads the schema.
    """

    def __init__(self, command: str, description: str, settings_help: Callable[[], str] | None = None) -> None:
        super().__init__(
            prog=f"treepo {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.settings_help = settings_help

    def format_help(self) -> str:
        text = super().format_help()
        return f"{text}\n{self.settings_help()}\n" if self.settings_help else text

    def error(self, message: str) -> NoReturn:
        raise SettingError("command line", f"{message} (see {self.prog} --help){self._meant(message)}")

    def _meant(self, message: str) -> str:
        """What the first option may have been meant for that argparse does not know."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        typed = next((text for text in unknown if text.startswith("--")), None)
        if typed is None:
            return ""
        # The schema loads numpy and pydantic, which parsing does not need.
        from treepo.config.suggest import suggest

        names = [text[2:] for action in self._actions for text in action.option_strings if text.startswith("--")]
        if self.settings_help is run_settings_help:
            from treepo.config.load import setting_names
            from treepo.config.schema import Config

            names += setting_names(Config)
        return suggest(typed, names)


def split_overrides(args: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(settings, other arguments): `--section.key VALUE` and `--section.key=VALUE` as nested settings.

    A value is read as TOML (1e-4, true, [0.9, 0.95]) and taken as text if it is none. `--section.key.name VALUE` is one
    entry of a setting that is a table.
    """
    overrides: dict[str, dict[str, Any]] = {}
    rest = []
    remaining = iter(args)
    for argument in remaining:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." not in name:
            rest.append(argument)
            continue
        if not equals:
            value = next(remaining, "--")
            if value.startswith("--"):
                raise SettingError(name, "no value given")
        section, key, *entry = name.replace("-", "_").split(".", 2)
        table = overrides.setdefault(section, {})
        if entry:
            table, key = table.setdefault(key, {}), entry[0]
        if not isinstance(table, dict) or key in table:
            raise SettingError(name, "given twice")
        table[key] = _value(value)
    return overrides, rest


def _value(text: str) -> object:
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return read["value"] if len(read) == 1 else text


def output_folder(out: str | None, prefix: str = "") -> Path:
    """The folder given as --out, or one under runs/ that is named after the time."""
    if out == "":
        raise SettingError("out", "no folder given")
    # filelock is loaded here, not for --help.
    from treepo.utils.io import new_folder

    return Path(out).expanduser() if out else new_folder(prefix)


def run_settings_help() -> str:
    """Every setting of a run, for the `--help` of a command."""
    # The schema loads numpy and pydantic, which parsing does not need.
    from treepo.config.help import settings_text
    from treepo.config.schema import Config

    return settings_text(Config)

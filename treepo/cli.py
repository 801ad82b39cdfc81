"""The command line: `treepo train`."""

import argparse
import dataclasses
import os
import sys
import tomllib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import treepo

USAGE = """treepo train [RECIPE.toml] [--section.key VALUE ...] [--out DIR]

Post-train a model with trees. Without a recipe and a model: the built-in task on this machine.
Every setting below can stand in the recipe and on the command line; the command line wins.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 with one line on standard error for a user's mistake."""
    # A busy neighbour makes OpenMP threads that spin while they wait many times slower; must be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        overrides, rest = split_overrides(args)
        options = _parser().parse_args(rest)
        if options.help:
            print(_help())
            return 0
        return _train(options.recipe, options.out, overrides)
    except ValueError as error:
        print(f"treepo: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"treepo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("treepo: interrupted", file=sys.stderr)
        return 130


def split_overrides(args: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(settings, other arguments): `--section.key VALUE` and `--section.key=VALUE` as nested settings.

    A value is read as TOML (1e-4, true, [0.9, 0.95]) and taken as text where it is none.
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
            value = next(remaining, None)
            if value is None:
                raise ValueError(f"{name}: no value given")
        section, _, key = name.partition(".")
        overrides.setdefault(section, {})[key.replace("-", "_")] = _value(value)
    return overrides, rest


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (see treepo --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="treepo", add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="version", version=f"treepo {treepo.__version__}")
    parser.add_argument("command", nargs="?", choices=["train"], default="train")
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--out")
    return parser


def _train(recipe: str | None, out: str | None, overrides: dict[str, dict[str, Any]]) -> int:
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.config import BUILT_IN_TASK, read_recipe, resolve
    from treepo.report.terminal import Terminal
    from treepo.run import train

    base = read_recipe(Path(recipe)) if recipe else {} if "path" in overrides.get("model", {}) else BUILT_IN_TASK
    config = resolve(base, overrides)
    disable_progress_bar()
    folder = Path(out) if out else Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    train(config, folder, Terminal(Console()))
    return 0


def _help() -> str:
    """Usage, and every setting with its default and its docstring."""
    from docstring_parser import parse_from_object

    from treepo.config import Config

    lines = [USAGE]
    for section in dataclasses.fields(Config):
        default: Any = section.default
        docs = {p.arg_name: p.description for p in parse_from_object(type(default)).params}
        lines.append(f"[{section.name}]  {type(default).__name__}")
        for setting in dataclasses.fields(type(default)):
            value = getattr(default, setting.name)
            lines.append(f"  --{section.name}.{setting.name} {value!r}")
            lines.append(f"      {' '.join((docs.get(setting.name) or '').split())}")
    return "\n".join(lines)

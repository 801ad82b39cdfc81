"""The command line: `treepo train`, `treepo sample`, `treepo eval`, `treepo report`, `treepo watch`,
`treepo bench`."""

import argparse
import os
import shlex
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

import treepo
from treepo.cli.commands import (
    bench_command,
    eval_command,
    report_command,
    sample_command,
    train_command,
    watch_command,
)
from treepo.config.help import MEASURABLE, USAGE, help_text
from treepo.errors import UsageError, program, users_mistakes
from treepo.utils.text import sanitize


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 with one line on standard error for a user's mistake."""
    # Threads of GNU OpenMP spin long while they wait: beside a busy process that makes small models several times
    # slower, and spinning briefly costs little on a quiet machine. Must be set before torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    args = list(sys.argv[1:] if argv is None else argv)
    # So that `use = "my_file:MyClass"` finds a file in the current folder, as with `python -m treepo`.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return _command(args)
    except UsageError as error:
        print(f"{program()}: {sanitize(str(error))}", file=sys.stderr)
        return 2
    except (FloatingPointError, MemoryError) as error:
        print(f"{program()}: {sanitize(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; without this Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("treepo: interrupted", file=sys.stderr)
        return 130


def _command(args: Sequence[str]) -> int:
    with users_mistakes():
        overrides, rest = split_overrides(args)
        options = _parser(rest[0] if rest else None).parse_intermixed_args(rest)
    if options.help:
        print(help_text(options.command))
    elif options.command is None:
        print(USAGE)
    elif options.command == "train":
        return train_command(options.recipe, options.out, options.resume, overrides, shlex.join(["treepo", *args]))
    elif options.command == "sample":
        sample_command(options, overrides)
    elif options.command == "eval":
        eval_command(options, overrides)
    elif options.command == "report":
        report_command(options, overrides)
    elif options.command == "watch":
        watch_command(options, overrides)
    else:
        bench_command(options, overrides, shlex.join(["treepo", *args]))
    return 0


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
            value = next(remaining, "--")
            if value.startswith("--"):
                raise ValueError(f"{name}: no value given")
        section, _, key = name.replace("-", "_").partition(".")
        if key in overrides.get(section, {}):
            raise ValueError(f"{name}: given twice")
        overrides.setdefault(section, {})[key] = _value(value)
    return overrides, rest


def _value(text: str) -> object:
    try:
        read = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return read["value"] if len(read) == 1 else text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (see treepo --help)")


def _parser(command: str | None) -> argparse.ArgumentParser:
    """What may stand beside settings, after `command`."""
    parser = _Parser(prog="treepo", add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="version", version=f"treepo {treepo.__version__}")
    parser.add_argument("command", nargs="?", choices=["train", "sample", "eval", "report", "watch", "bench"])
    if command == "train":
        parser.add_argument("recipe", nargs="?")
        parser.add_argument("--out")
        parser.add_argument("--resume")
    if command == "sample":
        parser.add_argument("model", nargs="?")
        for option in ("--prompt", "--recipe", "--out"):
            parser.add_argument(option)
    if command == "eval":
        parser.add_argument("models", nargs="*")
        parser.add_argument("--data", nargs="+", default=[])
        parser.add_argument("--sampling", nargs="+", default=["sequential"])
        parser.add_argument("--samples", type=int, default=16)
        parser.add_argument("--problems", type=int)
        for option in ("--recipe", "--out", "--json"):
            parser.add_argument(option)
    if command == "report":
        parser.add_argument("paths", nargs="*")
        parser.add_argument("--out")
        parser.add_argument("--own-code", action="store_true")
    if command == "watch":
        parser.add_argument("run", nargs="?")
        parser.add_argument("--page", action="store_true")
        parser.add_argument("--port", type=int)
    if command == "bench":
        parser.add_argument("what", nargs="?", choices=MEASURABLE)
        parser.add_argument("model", nargs="?")
        parser.add_argument("--out")
    return parser

"""What may stand on the command line beside settings."""

import argparse
from typing import Any

import treepo
from treepo.usage import MEASURABLE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (see treepo --help)")


def parser_of(command: str | None) -> argparse.ArgumentParser:
    """What may stand beside settings, after `command`."""
    parser = _Parser(prog="treepo", add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="version", version=f"treepo {treepo.__version__}")
    parser.add_argument("command", nargs="?", choices=["train", "sample", "eval", "bench", "watch"])
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
    if command == "bench":
        parser.add_argument("what", nargs="?", choices=MEASURABLE)
        parser.add_argument("model", nargs="?")
        parser.add_argument("--out")
    if command == "watch":
        parser.add_argument("run", nargs="?")
        parser.add_argument("--page", action="store_true")
        parser.add_argument("--port", type=int)
    return parser

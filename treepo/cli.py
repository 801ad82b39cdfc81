"""The command line: `treepo train`, `treepo sample`, `treepo eval`, `treepo bench`, `treepo watch`."""

import argparse
import os
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from treepo.arguments import parser_of
from treepo.printable import printable
from treepo.usage import MEASURABLE, USAGE, help_text, measurable


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
        print(f"treepo: {printable(str(error))}", file=sys.stderr)
        return 2
    except (FloatingPointError, MemoryError) as error:
        print(f"treepo: {printable(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; without this Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("treepo: interrupted", file=sys.stderr)
        return 130


class UsageError(Exception):
    """A user's mistake, told in one line."""


@contextmanager
def users_mistakes() -> Iterator[None]:
    """While settings are read and parts are built, a ValueError is a user's mistake; later on it is a bug of ours."""
    try:
        yield
    except ValueError as error:
        raise UsageError(" ".join(str(error).split())) from error


def _command(args: Sequence[str]) -> int:
    with users_mistakes():
        overrides, rest = split_overrides(args)
        options = parser_of(rest[0] if rest else None).parse_intermixed_args(rest)
    if options.help:
        print(help_text(options.command))
    elif options.command is None:
        print(USAGE)
    elif options.command == "train":
        return _train(options.recipe, options.out, options.resume, overrides)
    elif options.command == "sample":
        _sample(options, overrides)
    elif options.command == "eval":
        _eval(options, overrides)
    elif options.command == "watch":
        _watch(options, overrides)
    else:
        _bench(options, overrides, shlex.join(["treepo", *args]))
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


def _train(recipe: str | None, out: str | None, resumed: str | None, overrides: dict[str, dict[str, Any]]) -> int:
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.config import read_recipe, resolve
    from treepo.engine import EngineError
    from treepo.grow import StrategyError
    from treepo.interrupts import Interrupted
    from treepo.learn.checkpoint.random_state import seed_random
    from treepo.origin import record_origin
    from treepo.report.terminal import Terminal
    from treepo.report.trackers import TrackerError
    from treepo.resume import claimed, resume
    from treepo.run import prepare, train
    from treepo.settings import BUILT_IN_TASK, is_data_given
    from treepo.task.checked import CheckingError

    disable_progress_bar()
    terminal = Terminal(Console())
    with ExitStack() as stack:
        with users_mistakes():
            if resumed is not None:
                folder = _resumed_folder(resumed, recipe, out)
                stack.enter_context(claimed(folder, terminal.say))
                run, progress = resume(folder, overrides, terminal)
                stack.callback(run.close)
            else:
                folder = _out_folder(out)
                base = read_recipe(Path(recipe)) if recipe else {} if is_data_given(overrides) else BUILT_IN_TASK
                run, progress = prepare(resolve(base, overrides), folder, terminal), None
                stack.callback(run.close)
                stack.enter_context(claimed(folder, terminal.say))
                record_origin(run, folder)
        if progress is None:
            seed_random(run.config.train.seed)
        try:
            train(run, folder, terminal, progress)
        except (StrategyError, EngineError, CheckingError, TrackerError) as error:
            raise UsageError(str(error)) from error
        except Interrupted as error:
            print(f"treepo: {error}", file=sys.stderr)
            return 128 + error.signum
    return 0


def _resumed_folder(resumed: str, recipe: str | None, out: str | None) -> Path:
    """The folder of the run to go on with, which has its settings and is where it is kept."""
    if recipe is not None or out is not None:
        raise UsageError("resume: a run goes on with its own settings in its own folder; give no recipe and no --out")
    if resumed == "":
        raise UsageError("resume: no folder given")
    return Path(resumed)


def _sample(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.engine import EngineError
    from treepo.grow import StrategyError
    from treepo.report.terminal import Terminal
    from treepo.sample import keep, prepare, sample, sample_settings

    disable_progress_bar()
    terminal = Terminal(Console())
    with users_mistakes():
        config = sample_settings(options.model, options.recipe, overrides)
        ready = prepare(config, options.prompt, options.out, terminal)
    try:
        tree = sample(ready, terminal)
    except (StrategyError, EngineError) as error:
        raise UsageError(str(error)) from error
    with users_mistakes():
        keep(ready, tree, terminal)


def _eval(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.engine import EngineError
    from treepo.evaluate import AnswerStore, StoreError
    from treepo.evaluation import conclude
    from treepo.evaluation_plan import Arguments, plan
    from treepo.grow import StrategyError
    from treepo.report.terminal import Terminal
    from treepo.task.checked import CheckingError

    disable_progress_bar()
    terminal = Terminal(Console())
    folder = _out_folder(options.out, "eval-")
    with users_mistakes():
        given = {f.name: getattr(options, f.name) for f in fields(Arguments)}
        evaluation = plan(Arguments(**given), overrides, folder)
    try:
        with AnswerStore(folder).alone(terminal.say):
            for model in evaluation.models:
                _answer(evaluation, model, terminal)
            with users_mistakes():
                conclude(evaluation, terminal)
    except (StrategyError, EngineError, CheckingError, StoreError) as error:
        raise UsageError(str(error)) from error


def _answer(evaluation: Any, model: str, terminal: Any) -> None:
    """One model of an evaluation; nothing of it is left in memory."""
    from treepo.evaluation import answer, prepare

    with users_mistakes():
        ready = prepare(evaluation, model, terminal)
    terminal.say(f"Answers are kept in {evaluation.out}; after an interruption the same command with --out goes on.")
    try:
        answer(ready, terminal)
    finally:
        ready.close()


def _out_folder(out: str | None, prefix: str = "") -> Path:
    if out == "":
        raise UsageError("out: no folder given")
    return Path(out) if out else Path("runs") / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"


def _watch(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> None:
    from treepo.watch import watch_command

    with users_mistakes():
        watch_command(options.run, options.page, options.port, overrides)


def _bench(options: argparse.Namespace, overrides: dict[str, dict[str, Any]], command: str) -> None:
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.bench.folder import claim_folder
    from treepo.config import resolve_as
    from treepo.report.terminal import Terminal

    if options.what is None:
        raise UsageError(f"bench: nothing to measure given; there are {' and '.join(MEASURABLE)}")
    if options.out == "":
        raise UsageError("out: no folder given")
    settings, measured, told = measurable(options.what)
    disable_progress_bar()
    terminal = Terminal(Console())
    with users_mistakes():
        config = resolve_as(settings, {"model": {"path": options.model}} if options.model else {}, overrides)
        with terminal.bar("making the base model") as progress:
            bench = measured.prepare_bench(config, progress)
        if options.out is not None:
            claim_folder(Path(options.out), told.JSON_NAME)
    with terminal.bar("measuring") as progress:
        report = bench.run(bench.workloads(), command, progress)
    for workload in report.workloads:
        terminal.console.print(told.table(workload))
    if options.out is not None:
        measured.keep(report, Path(options.out))
        terminal.say(f"All figures, and a plot, are in {options.out}.")

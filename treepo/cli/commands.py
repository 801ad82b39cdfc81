"""What each command does; parsing is `cli.py`'s."""

import argparse
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from treepo.config.help import MEASURABLE, measurable
from treepo.errors import UsageError, users_mistakes


def train_command(
    recipe: str | None, out: str | None, resumed: str | None, overrides: dict[str, dict[str, Any]], command: str
) -> int:
    """`treepo train`; returns the exit code. command: as it was given, for what is kept of the run."""
    from treepo.cli.train import run_training

    folder = None if resumed is None else _resumed_folder(resumed, recipe, out)
    return run_training(recipe, folder, _out_folder(out), overrides, command)


def _resumed_folder(resumed: str, recipe: str | None, out: str | None) -> Path:
    """The folder of the run to go on with, which has its settings and is where it is kept."""
    if recipe is not None or out is not None:
        raise UsageError("resume: a run goes on with its own settings in its own folder; give no recipe and no --out")
    if resumed == "":
        raise UsageError("resume: no folder given")
    return Path(resumed)


def sample_command(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> None:
    """`treepo sample`."""
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.cli.sample import keep, prepare, sample, sample_settings
    from treepo.errors import EngineError, StrategyError
    from treepo.report.terminal import Terminal

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


def eval_command(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> None:
    """`treepo eval`."""
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.errors import EngineError, StoreError, StrategyError, VerifierError
    from treepo.evaluate.store import AnswerStore
    from treepo.report.terminal import Terminal
    from treepo.run.evaluate import conclude
    from treepo.run.evaluation_plan import Arguments, plan

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
    except (StrategyError, EngineError, VerifierError, StoreError) as error:
        raise UsageError(str(error)) from error


def _answer(evaluation: Any, model: str, terminal: Any) -> None:
    """One model of an evaluation; nothing of it is left in memory."""
    from treepo.run.evaluate import answer, prepare

    with users_mistakes():
        ready = prepare(evaluation, model, terminal)
    terminal.say(f"Answers are kept in {evaluation.out}; after an interruption the same command with --out goes on.")
    try:
        answer(ready, terminal)
    finally:
        ready.close()


def bench_command(options: argparse.Namespace, overrides: dict[str, dict[str, Any]], command: str) -> None:
    """`treepo bench`. command: as it was given, for the report."""
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from treepo.bench.rollout_report import claim_folder
    from treepo.config.load import resolve_as
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
        with terminal.progress("making the base model") as progress:
            bench = measured.prepare_bench(config, progress)
        if options.out is not None:
            claim_folder(Path(options.out), told.JSON_NAME)
    with terminal.progress("measuring") as progress:
        report = bench.run(bench.workloads(), command, progress)
    for workload in report.workloads:
        terminal.console.print(told.table(workload))
    if options.out is not None:
        measured.keep(report, Path(options.out))
        terminal.say(f"All figures, and a plot, are in {options.out}.")


def _out_folder(out: str | None, prefix: str = "") -> Path:
    if out == "":
        raise UsageError("out: no folder given")
    return Path(out) if out else Path("runs") / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"


def report_command(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> None:
    """`treepo report`."""
    from rich.console import Console

    from treepo.cli.report import report
    from treepo.report.terminal import Terminal

    if overrides:
        raise UsageError(f"{next(iter(overrides))}: a report has no settings")
    if not options.paths:
        raise UsageError("report: no folder given")
    if options.out == "":
        raise UsageError("out: no file given")
    with users_mistakes():
        paths, out = [Path(path) for path in options.paths], options.out and Path(options.out)
        report(paths, out, Terminal(Console()).say, options.own_code)


def watch_command(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> None:
    """`treepo watch`."""
    from rich.console import Console

    from treepo.cli.watch import watch
    from treepo.report.terminal import Terminal

    if not options.run:
        raise UsageError("watch: no folder of a run given")
    if overrides:
        raise UsageError(f"watch: a run's settings are its own, got some of {next(iter(overrides))!a}")
    if options.port is not None and not options.page:
        raise UsageError("port: it is that of a page; give --page too")
    with users_mistakes():
        if options.page:
            from treepo.cli.watch import watch_page

            watch_page(Path(options.run), options.port or 0, Terminal(Console()).say)
        else:
            watch(Path(options.run), Console())

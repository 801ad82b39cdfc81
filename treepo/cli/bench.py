"""`treepo bench`: measures trees against sequential sampling, and packed updates against padded ones."""

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from treepo.cli.arguments import CommandParser
from treepo.errors import SettingError

logger = logging.getLogger(__name__)

ABOUT = """Measure what trees save. Without MODEL a model of random weights is measured.

  rollout   trees against sequential sampling and a plain transformers loop
  update    one optimiser update on trees, each shared token forwarded once, against every trajectory on its own with
            padding and without (with --bench.trees task: on trees of the built-in task's base model)"""

WHAT = ("rollout", "update")


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("bench", ABOUT, _settings_help)
    parser.add_argument("what", nargs="?", choices=WHAT, help="what to measure")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder or name of a model, like --model.path")
    parser.add_argument("--out", metavar="DIR", help="folder for the results as JSON and as a plot")
    return parser


def run(options: Namespace, console: Console) -> None:
    """Measure, show the tables, and keep the results if a folder is given."""
    if options.what is None:
        raise SettingError("bench", f"nothing to measure given; there are {' and '.join(WHAT)}")
    if options.out == "":
        raise SettingError("out", "no folder given")
    # torch and transformers load here, not for --help.
    from transformers.utils.logging import disable_progress_bar

    from treepo.bench import rollout, rollout_report, update, update_report
    from treepo.config.load import resolve_as
    from treepo.report.terminal import Terminal

    disable_progress_bar()
    terminal = Terminal(console)
    bench, shown = (rollout, rollout_report) if options.what == "rollout" else (update, update_report)
    base = {"model": {"path": options.model}} if options.model else {}
    config = resolve_as(_settings(options.what), base, options.settings)
    with terminal.progress("making the base model") as progress:
        ready = bench.prepare_bench(config, progress)
    try:
        if options.out is not None:
            rollout_report.claim_folder(Path(options.out), shown.JSON_NAME)
        with terminal.progress("measuring") as progress:
            report = ready.run(ready.workloads(), options.command_line, progress)
    finally:
        ready.close()
    for workload in report.workloads:
        console.print(shown.table(workload))
    if options.out is not None:
        bench.keep(report, Path(options.out))
        logger.info("All metrics, and a plot, are in %s.", options.out)


def _settings(what: str) -> Any:
    """The class with the settings of a measurement."""
    from treepo.bench.settings import RolloutBenchConfig, UpdateBenchConfig

    return RolloutBenchConfig if what == "rollout" else UpdateBenchConfig


def _settings_help() -> str:
    from treepo.config.help import settings_text

    return "\n".join(settings_text(_settings(what), f"settings of `treepo bench {what}`:") for what in WHAT)

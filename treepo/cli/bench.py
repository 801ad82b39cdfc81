"""`treepo bench`: measures trees against sequential sampling, and packed updates against padded ones."""

import logging
import shlex
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from treepo.cli.common import CommandParser
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
    parser.add_argument("--out", metavar="DIR", help="folder for the results as JSON")
    return parser


def run(options: Namespace, console: Console) -> None:
    """Measure, show the tables, and keep the results if a folder is given."""
    if options.what is None:
        raise SettingError("bench", f"nothing to measure given; there are {' and '.join(WHAT)}")
    # torch and transformers load here, not for --help.
    from transformers.utils.logging import disable_progress_bar

    from treepo.bench import rollout, update
    from treepo.bench.settings import CONFIGS
    from treepo.bench.tables import table
    from treepo.config.load import resolve_as
    from treepo.report.bench_results import ROLLOUT_NAME, UPDATE_NAME, write_json
    from treepo.report.terminal import Terminal
    from treepo.utils.io import prepare_output_dir, writing

    disable_progress_bar()
    terminal = Terminal(console)
    bench, name = (rollout, ROLLOUT_NAME) if options.what == "rollout" else (update, UPDATE_NAME)
    out = options.out and Path(options.out)
    base = {"model": {"path": options.model}} if options.model else {}
    config = resolve_as(CONFIGS[options.what], base, options.settings)
    with terminal.progress("making the base model") as progress:
        ready = bench.prepare_bench(config, progress)
    try:
        if out is not None:
            prepare_output_dir(out, result=name)
        with terminal.progress("measuring") as progress:
            report = ready.run(ready.cases(), options.command_line, progress)
    finally:
        ready.close()
    for workload in report.workloads:
        console.print(table(workload))
    if out is not None:
        with writing(out / name, "the figures above", "out"):
            write_json(report, out / name)
        draw = shlex.join(["treepo", "report", str(out)])
        logger.info("All figures are in %s; `%s` draws them.", out / name, draw)


def _settings_help() -> str:
    from treepo.bench.settings import CONFIGS
    from treepo.config.help import settings_text

    return "\n".join(settings_text(config, f"settings of `treepo bench {what}`:") for what, config in CONFIGS.items())

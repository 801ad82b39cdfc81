"""`treepo train`: starts or resumes a run, in each of its processes."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from treepo.cli.common import CommandParser, output_folder, run_settings_help
from treepo.errors import SettingError, named_as_typed
from treepo.utils import process_rank

if TYPE_CHECKING:
    from treepo.config.schema import Config
    from treepo.report.terminal import Terminal


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser(
        "train",
        "Post-train a model with trees. Without a recipe and a dataset: the built-in task, on this machine.",
        run_settings_help,
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE.toml", help="settings of the run")
    parser.add_argument("--out", metavar="DIR", help="folder of the run (default: runs/TIME)")
    parser.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the run in DIR from its last checkpoint, as if it had never stopped; "
        "docs/runs.md lists the settings that may change",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the first prompt as the model would get it, its known answer and the verdict on it; train nothing, "
        "write nothing",
    )
    return parser


def run(options: Namespace, console: Console) -> None:
    """Train as the settings say; raises Interrupted on Ctrl-C and SIGTERM, after a checkpoint."""
    from treepo.report.terminal import Terminal

    _check_resume(options)
    with Terminal(console).stage("loading PyTorch and transformers"):
        # Here, not for --help.
        from transformers.utils.logging import disable_progress_bar

        from treepo.config.python import TreePOConfig
        from treepo.run.resume import continued_settings
        from treepo.trainer import TreePOTrainer

    disable_progress_bar()
    if options.dry_run:
        _dry_run(options, Terminal(console))
        return
    is_resumed = options.resume is not None
    out = Path(options.resume) if is_resumed else output_folder(options.out)
    config = continued_settings(out, options.settings) if is_resumed else _settings(options)
    settings = TreePOConfig(output_dir=out, **{f.name: getattr(config, f.name) for f in fields(config)})
    with (
        named_as_typed({"output_dir": "resume" if is_resumed else "out"}),
        TreePOTrainer(config=settings, console=console, command=options.command_line) as trainer,
    ):
        trainer.train(resume=is_resumed)


def _check_resume(options: Namespace) -> None:
    """Raise SettingError for what does not go together with --resume."""
    if options.resume is None:
        return
    if options.recipe is not None or options.out is not None:
        raise SettingError(
            "resume", "a run goes on with its own settings in its own folder; give no recipe and no --out"
        )
    if options.dry_run:
        raise SettingError("dry-run", "shows how a new run begins; give no --resume")


def _settings(options: Namespace) -> "Config":
    """The settings of a new run: those of the recipe or of the built-in task, with the command line's on top."""
    from treepo.config.load import read_recipe, resolve
    from treepo.config.schema import BUILT_IN_TASK, is_data_given

    base = {} if is_data_given(options.settings) else BUILT_IN_TASK
    return resolve(read_recipe(Path(options.recipe)) if options.recipe else base, options.settings)


def _dry_run(options: Namespace, terminal: "Terminal") -> None:
    """Show what a run with these settings would begin with."""
    from treepo.distributed import count_processes
    from treepo.model.policy import usable_device
    from treepo.run.preview import preview
    from treepo.utils.io import check_unused

    if options.out is not None:
        check_unused(output_folder(options.out))
    config = _settings(options)
    config.check_whole()
    num_processes = count_processes(config.model.device, config.processes.shard_size)
    usable_device(config.model.device)
    # All of a job are asked; one answers.
    if process_rank() == 0:
        preview(config, terminal, num_processes)

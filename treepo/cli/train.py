"""`treepo train`: starts or resumes a run, in each of its processes."""

import shlex
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from treepo.cli.common import CommandParser, going_on, output_folder, run_settings_help
from treepo.errors import LostError, PeerError, SettingError
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

    with Terminal(console).stage("loading PyTorch and transformers"):
        # Here, not for --help.
        from transformers.utils.logging import disable_progress_bar

        from treepo.distributed import init_distributed
        from treepo.learn.train_state import seed_random
        from treepo.run.checkpointing import NOT_BEGUN
        from treepo.run.resume import continued_settings, record_environment, record_initial_state, resume
        from treepo.run.train import prepare, train
        from treepo.utils.io import lock_dir

    disable_progress_bar()
    terminal, overrides = Terminal(console), options.settings
    is_resumed = options.resume is not None
    _check_resume(options)
    if options.dry_run:
        _dry_run(options, terminal)
        return
    out = Path(options.resume) if is_resumed else output_folder(options.out)
    with ExitStack() as stack:
        if is_resumed:
            config = continued_settings(out, overrides)
            if process_rank() == 0:
                stack.enter_context(lock_dir(out, "resume"))
        else:
            config = _settings(options)
        limits = config.processes
        job = stack.enter_context(init_distributed(config.model.device, limits.shard_size, limits.timeout_s))
        if is_resumed:
            parts, progress = resume(config, out, terminal, job)
            stack.callback(parts.close)
        else:
            # A folder that is named after the time has another name in each process.
            out = job.processes.broadcast(out)
            parts, progress = prepare(config, out, terminal, job), NOT_BEGUN
            stack.callback(parts.close)
        # From here on the folder has all settings.
        again = shlex.join(["treepo", "train", "--resume", str(out)])
        stack.enter_context(going_on(again, PeerError, LostError))
        if not is_resumed:
            with job.processes.synced_errors():
                if job.processes.is_first:
                    stack.enter_context(lock_dir(out))
            record_initial_state(parts, out)
        with job.processes.synced_errors():
            if job.processes.is_first:
                record_environment(out, options.command_line)
        if progress == NOT_BEGUN:
            seed_random(config.train.seed + job.processes.rank)
        train(parts, out, terminal, progress)


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
    from treepo.run.preview import preview
    from treepo.utils.io import check_unused

    if options.out is not None:
        check_unused(output_folder(options.out))
    if process_rank() == 0:
        preview(_settings(options), terminal)

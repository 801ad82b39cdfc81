"""`treepo train`: a run begun or gone on with, in each of its processes."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from treepo.config.load import read_recipe, resolve
from treepo.config.schema import BUILT_IN_TASK, Settings, is_data_given
from treepo.distributed import init_distributed, rank_of_environment
from treepo.errors import (
    EngineError,
    Interrupted,
    LostError,
    PeerError,
    StrategyError,
    TrackerError,
    UsageError,
    VerifierError,
    program,
    users_mistakes,
)
from treepo.learn.checkpoint import Progress
from treepo.learn.train_state import seed_random
from treepo.report.terminal import Terminal
from treepo.run.build import Run
from treepo.run.provenance import record_environment, record_origin
from treepo.run.resume import claimed, continued_settings, resume
from treepo.run.train import prepare, train
from treepo.utils.text import sanitize


def run_training(recipe: str | None, resumed: Path | None, out: Path, overrides: dict[str, Any], command: str) -> int:
    """Train as settings say, in a new folder `out`, or go on with the run in `resumed`; returns the exit code.

    command: as it was given, for what is kept of the run. Raises UsageError for a user's mistake.
    """
    disable_progress_bar()
    is_first = rank_of_environment() == 0
    terminal = Terminal(Console(quiet=not is_first))
    folder: Path | None = None
    try:
        with ExitStack() as stack:
            with users_mistakes():
                if resumed is not None:
                    run, folder, progress = _gone_on(stack, resumed, overrides, terminal)
                else:
                    base = read_recipe(Path(recipe)) if recipe else {} if is_data_given(overrides) else BUILT_IN_TASK
                    run, folder = _begun(stack, base, overrides, out, terminal)
                    progress = None
            if is_first:
                record_environment(folder, command)
            if progress is None:
                seed_random(run.config.train.seed + run.processes.rank)
            train(run, folder, terminal, progress)
    except (StrategyError, EngineError, VerifierError, TrackerError) as error:
        raise UsageError(str(error)) from error
    except Interrupted as error:
        print(f"{program()}: {error}", file=sys.stderr)
        return 128 + error.signum
    except (PeerError, LostError) as error:
        advice = "" if folder is None else f"; to go on: treepo train --resume {folder}"
        print(f"{program()}: {sanitize(str(error))}{advice}", file=sys.stderr)
        return 1
    return 0


def _gone_on(
    stack: ExitStack, folder: Path, overrides: Settings, terminal: Terminal
) -> tuple[Run, Path, Progress | None]:
    if rank_of_environment() == 0:
        stack.enter_context(claimed(folder, terminal.say))
    config = continued_settings(folder, overrides)
    job = stack.enter_context(
        init_distributed(config.model.device, config.processes.shard_size, config.processes.timeout_s)
    )
    run, progress = resume(config, folder, terminal, job)
    stack.callback(run.close)
    return run, folder, progress


def _begun(stack: ExitStack, base: Settings, overrides: Settings, out: Path, terminal: Terminal) -> tuple[Run, Path]:
    config = resolve(base, overrides)
    job = stack.enter_context(
        init_distributed(config.model.device, config.processes.shard_size, config.processes.timeout_s)
    )
    # A folder that is named after the time is not called the same by all.
    folder = job.processes.broadcast(out)
    run = prepare(config, folder, terminal, job)
    stack.callback(run.close)
    with job.processes.synced_errors():
        if job.processes.is_first:
            stack.enter_context(claimed(folder, terminal.say))
    record_origin(run, folder)
    return run, folder

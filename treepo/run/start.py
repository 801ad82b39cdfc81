"""How a run starts or goes on: its folder is claimed, and what it starts with is written down or compared."""

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from treepo.config.schema import Config
from treepo.distributed import Job
from treepo.errors import LostError, PeerError
from treepo.learn.checkpoint import Progress
from treepo.learn.train_state import seed_random
from treepo.report.run_log import MetricsLog
from treepo.run.build import Run
from treepo.run.checkpointing import NOT_BEGUN, resume_command
from treepo.run.folder import check_before_loading, make_folder
from treepo.run.resume import check_continues, record_environment, record_initial_state, restore
from treepo.utils import process_rank
from treepo.utils.io import going_on, lock_dir


class Startable(Protocol):
    """What starts: `TreePOTrainer`. Its run is loaded when it is asked for."""

    config: Config
    output_dir: Path
    command: str

    @property
    def job(self) -> Job: ...

    @property
    def run(self) -> Run: ...


def start_run(trainer: Startable, stack: ExitStack) -> Progress:
    """Claim a new folder, which stays locked while `stack` is open. Raises SettingError, before anything is loaded, for
    settings that cannot work and for a folder that already holds something."""
    processes = trainer.job.processes
    # A folder that is named after the time has another name in each process.
    out = trainer.output_dir = processes.broadcast(trainer.output_dir)
    check_before_loading(trainer.config, out, processes)
    run = trainer.run
    with run.processes.synced_errors():
        if run.processes.is_first:
            make_folder(run.config, out)
    _say_how_to_go_on(stack, run.config, out)
    with run.processes.synced_errors():
        if run.processes.is_first:
            stack.enter_context(lock_dir(out))
    record_initial_state(run, out)
    _record_environment(run, out, trainer.command)
    seed_random(run.config.train.seed + run.processes.rank)
    return NOT_BEGUN


def continue_run(trainer: Startable, stack: ExitStack) -> Progress:
    """Lock the folder of a run and give its parts the state of its newest undamaged checkpoint.

    Raises SettingError for settings that would make it another run, and for a model or problems other than those that
    it was started with.
    """
    out = trainer.output_dir
    check_continues(out, trainer.config)
    if process_rank() == 0:
        stack.enter_context(lock_dir(out, "resume"))
    run = trainer.run
    progress = restore(run, out)
    _say_how_to_go_on(stack, run.config, out)
    _record_environment(run, out, trainer.command)
    if progress == NOT_BEGUN:
        seed_random(run.config.train.seed + run.processes.rank)
    return progress


def steps_before(out: Path) -> list[dict[str, float]]:
    """Return the metrics of the steps that a resumed run has already made."""
    lines = MetricsLog(out / "metrics.jsonl").read()
    return [
        {name: value for name, value in line.items() if name != "step"} for line in lines if line.get("step", 0) > 0
    ]


def _say_how_to_go_on(stack: ExitStack, config: Config, out: Path) -> None:
    """From here on the folder has all settings."""
    stack.enter_context(going_on(resume_command(config, out), PeerError, LostError))


def _record_environment(run: Run, out: Path, command: str) -> None:
    with run.processes.synced_errors():
        if run.processes.is_first:
            record_environment(out, command or shlex.join(sys.argv))

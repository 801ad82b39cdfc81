"""The loop of `treepo train`: evaluates, trains, and keeps metrics, trees, checkpoints and models."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from treepo.config.load import to_toml
from treepo.config.paths import with_absolute_paths
from treepo.config.schema import Config
from treepo.credit.group import GRPO
from treepo.distributed import Job, lost_as_error, resolve_device
from treepo.learn.checkpoint import Progress
from treepo.report.diagnosis import StepWatch
from treepo.report.run_log import Metrics, MetricsLog
from treepo.report.terminal import Terminal, TrainingView
from treepo.run.build import Run, build_run
from treepo.run.checkpointing import NOT_BEGUN, RunCheckpoints
from treepo.run.hub import check_hub
from treepo.run.length import Limits, is_patience_over
from treepo.run.outputs import (
    check_installed,
    failed_batch_kept,
    is_model_kept,
    publish,
    save_best,
    save_last,
    save_trees,
    tracked,
)
from treepo.utils.io import check_unused, create_text, prepare_output_dir, preparing

logger = logging.getLogger(__name__)


def prepare(config: Config, out: Path, terminal: Terminal, job: Job | None = None) -> Run:
    """Build the parts of a run, in each of its processes, and let the first make its folder with the resolved settings.

    Raises SettingError for settings that cannot work and for a folder that already holds something, before anything is
    written there.
    """
    job, config = job or Job(resolve_device(config.model.device)), with_absolute_paths(config)
    with job.processes.synced_errors():
        if job.processes.is_first:
            check_unused(out)
            check_hub(config.tracking)
    check_installed(config.tracking)
    with terminal.stage("loading the model"), terminal.progress("making the base model") as report:
        run = build_run(config, report, job)
    try:
        with job.processes.synced_errors():
            if job.processes.is_first:
                _make_folder(run.config, out)
    except BaseException:
        run.close()
        raise
    return run


def _make_folder(config: Config, out: Path) -> None:
    prepare_output_dir(out)
    path = out / "config.toml"
    with preparing(path, "out"):
        # Of two runs that start at once in one folder, one fails here.
        create_text(path, to_toml(config))


def train(run: Run, out: Path, terminal: Terminal, progress: Progress = NOT_BEGUN) -> None:
    """Evaluate, train, evaluate again; metrics, checkpoints and model are kept in `out`.

    progress: of a run that is resumed. Raises FloatingPointError if logits, loss or gradients stop being finite; the
    batch of an update that did it is kept in `out`. Raises MemoryError, with the settings to change, for an update that
    cannot be made within memory, TrackerError if a tracker cannot be started, and Interrupted on Ctrl-C and SIGTERM,
    once the last complete step has a checkpoint. It also ends where train.max_hours or SIGUSR1 say, with a checkpoint
    and no model, and where eval.patience is over. Where several processes train together, the first keeps the folder,
    and PeerError or LostError is raised if another one cannot continue.
    """
    settings, is_first, log = run.config, run.processes.is_first, MetricsLog(out / "metrics.jsonl")
    watch = StepWatch()
    num_steps = settings.train.num_steps
    with (
        tracked(settings, out, is_first) as tracking,
        lost_as_error(),
        Limits(settings.train.max_hours, run.processes) as limits,
    ):
        with RunCheckpoints(run, out, progress) as checkpoints, terminal.training(num_steps) as view:
            if progress != NOT_BEGUN and progress.best_step == progress.step:
                # The process before may have ended before it saved it.
                save_best(run, out)
            for step in _steps(checkpoints, limits):
                metrics, result = {}, None
                saves_trees = _is_due(step, settings.train.save_trees_every)
                if step > 0:
                    with failed_batch_kept(run, step, out):
                        result = run.trainer.step(
                            step, guard=checkpoints.guard, with_entropies=saves_trees, progress=view.show_phase
                        )
                    metrics = result.metrics
                if _is_evaluated(step, settings):
                    growing = nullcontext if step else checkpoints.guard.growing
                    metrics = metrics | run.evaluate(growing, view.show_phase)
                is_best, checkpoint_time = checkpoints.finish_step(step, metrics)
                metrics = metrics | checkpoint_time
                with run.processes.synced_errors():
                    if is_first:
                        log.append(step, metrics)
                checkpoints.complete_step()
                with run.processes.synced_errors():
                    if result is not None and saves_trees and is_first:
                        save_trees(run, step, out, result, tracking)
                if is_best:
                    save_best(run, out)
                checkpoints.write()
                tracking.log(step, metrics)
                _show(step, metrics, view, watch)
        if checkpoints.stopped_by:
            checkpoints.check_written()
            return
        run.keep(lambda: save_last(run, out))
        if is_first:
            try:
                publish(run, out)
            finally:
                terminal.summary(log.read(), out, next_commands(settings, out))
        checkpoints.check_written()


def _steps(checkpoints: RunCheckpoints, limits: Limits) -> Iterator[int]:
    """The steps that are left, up to the last one or where something stops the run, which `checkpoints` notes."""
    settings = checkpoints.run.config
    for step in range(checkpoints.progress.step + 1, settings.train.num_steps + 1):
        if is_patience_over(settings.eval, checkpoints.progress):
            return
        if reason := limits.stop_before_step():
            checkpoints.stopped_by = reason
            return
        yield step


def _show(step: int, metrics: Metrics, view: TrainingView, watch: StepWatch) -> None:
    """Show a step's metrics, and what makes it useless if anything does."""
    if step > 0:
        view.show_step(step, metrics)
        if warning := watch.observe(metrics):
            logger.warning("step %d: %s", step, warning)
    elif metrics:
        accuracies = 100 * metrics["eval/avg"], 100 * metrics["eval/greedy"]
        logger.info("held out before training: %.1f%% (greedy %.1f%%)", *accuracies)


def _is_evaluated(step: int, settings: Config) -> bool:
    if step == 0:
        return settings.eval.at_start
    return step == settings.train.num_steps or _is_due(step, settings.eval.every)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def next_commands(config: Config, out: Path) -> list[tuple[str, str]]:
    """(purpose, command) of what a user may want to do after this run."""
    commands = []
    if is_model_kept(config):
        go_on = ["treepo", "train", str(out / "config.toml"), "--model.path", str(out / "model")]
        commands.append(("Go on from this model", shlex.join(go_on)))
    if not isinstance(config.credit, GRPO):
        width, response_len = config.tree.width, config.tree.max_response_tokens
        star = {"tree.depth": 1, "tree.segment_len": response_len, "tree.num_children": width}
        star |= {"initial_fork.low": width, "initial_fork.high": width}
        options = [text for name, value in star.items() for text in (f"--{name}", str(value))]
        compare = ["treepo", "train", str(out / "config.toml"), "--credit.use", "GRPO", *options]
        commands.append(("Compare with GRPO", shlex.join(compare)))
    return commands

"""The loop of `treepo train`: evaluates, trains, and keeps metrics, trees, checkpoints and models."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from treepo.distributed import lost_as_error
from treepo.evaluate.records import AnswerRecord
from treepo.learn.checkpoint import Progress
from treepo.learn.trainer import StepResult
from treepo.report.diagnosis import StepWatch
from treepo.report.run_log import Metrics, MetricsLog
from treepo.report.terminal import Terminal, TrainingView, accuracy_text
from treepo.run.build import Run
from treepo.run.checkpointing import CHECKPOINTS, NOT_BEGUN, RunCheckpoints
from treepo.run.folder import next_commands
from treepo.run.hooks import NO_HOOKS, Hooks, TrainStep
from treepo.run.length import Limits, is_evaluated, is_patience_over
from treepo.run.outputs import (
    ADAPTER,
    MODEL,
    are_trees_due,
    failed_batch_kept,
    is_model_kept,
    publish,
    save_best,
    save_last,
    save_texts,
)
from treepo.run.tracking import tracked
from treepo.utils.signals import PhaseCallback, StepGuard

logger = logging.getLogger(__name__)


def train(run: Run, out: Path, terminal: Terminal, progress: Progress = NOT_BEGUN) -> None:
    """Make all steps of a run; see `train_steps`."""
    for _ in train_steps(run, out, terminal, progress):
        pass


def train_steps(
    run: Run, out: Path, terminal: Terminal, progress: Progress = NOT_BEGUN, hooks: Hooks = NO_HOOKS
) -> Iterator[TrainStep]:
    """Evaluate, train, evaluate again; metrics, checkpoints and model are kept in `out`. Yields each training step.

    progress: of a run that is resumed. Whoever leaves the loop early ends the run as Ctrl-C does, with a checkpoint.
    Raises FloatingPointError if logits, loss or gradients stop being finite; the batch of an update that did it is kept
    in `out`. Raises MemoryError, with the settings to change, for an update that cannot be made within memory,
    TrackerError if a tracker cannot be started, and Interrupted on Ctrl-C and SIGTERM, once the last complete step has
    a checkpoint. It also ends where train.max_hours or SIGUSR1 say, with a checkpoint and no model, and where
    eval.patience is over. Where several processes train together, the first keeps the folder, and PeerError or
    LostError is raised if another one cannot continue.
    """
    settings, is_first, log = run.config, run.processes.is_first, MetricsLog(out / "metrics.jsonl")
    watch = StepWatch()
    with (
        tracked(settings, out, is_first) as tracking,
        lost_as_error(),
        Limits(settings.train.max_hours, run.processes) as limits,
    ):
        with (
            RunCheckpoints(run, out, progress) as checkpoints,
            terminal.training(settings.train.num_steps, num_samples=settings.eval.num_samples) as view,
        ):
            # The process before may have ended before it saved it.
            save_best(run, out, is_best=progress != NOT_BEGUN and progress.best_step == progress.step)
            done: TrainStep | None = None
            for step in _steps_left(checkpoints, limits, hooks):
                result, evaluated, answers = _make_step(run, step, out, checkpoints.guard, view.show_phase)
                metrics = (result.metrics if result else {}) | evaluated
                is_best, more_metrics = checkpoints.finish_step(step, metrics)
                metrics = metrics | more_metrics
                with run.processes.synced_errors():
                    if is_first:
                        log.append(step, metrics)
                checkpoints.complete_step()
                with run.processes.synced_errors():
                    if is_first:
                        save_texts(run, step, out, result, answers, tracking)
                save_best(run, out, is_best=is_best)
                if checkpoints.write():
                    hooks.on_save(step, out / CHECKPOINTS)
                tracking.log(step, metrics)
                _show(step, metrics, view, watch)
                if evaluated:
                    hooks.on_eval(step, evaluated)
                if result is not None:
                    done = TrainStep(step, metrics, result)
                    hooks.on_step(done)
                    yield done
        if checkpoints.stopped_by:
            checkpoints.check_written()
            return
        save_last(run, out)
        hooks.on_save(checkpoints.progress.step, out / (MODEL if is_model_kept(settings) else ADAPTER))
        if is_first:
            _finish(run, out, terminal, log.read(), done)
        checkpoints.check_written()


def _steps_left(checkpoints: RunCheckpoints, limits: Limits, hooks: Hooks) -> Iterator[int]:
    """The steps that are left, up to the last one or where something stops the run, which `checkpoints` notes."""
    settings, processes = checkpoints.run.config, checkpoints.run.processes
    for step in range(checkpoints.progress.step + 1, settings.train.num_steps + 1):
        if is_patience_over(settings.eval, checkpoints.progress) or processes.broadcast(hooks.should_stop()):
            return
        if reason := limits.stop_before_step():
            checkpoints.stopped_by = reason
            return
        yield step


def _make_step(
    run: Run, step: int, out: Path, guard: StepGuard, progress: PhaseCallback
) -> tuple[StepResult | None, Metrics, list[AnswerRecord]]:
    """(the result of a training step, None for step 0; metrics and answers of an evaluation, if one is due)."""
    result, evaluated, answers = None, {}, []
    if step > 0:
        with_entropies = are_trees_due(step, run.config.train)
        with failed_batch_kept(run, step, out):
            result = run.trainer.step(step, guard=guard, with_entropies=with_entropies, progress=progress)
    if is_evaluated(step, run.config):
        evaluated = run.evaluate(nullcontext if step else guard.growing, progress, answers.extend, step)
    return result, evaluated, answers


def _finish(run: Run, out: Path, terminal: Terminal, log: Sequence[Metrics], last: TrainStep | None) -> None:
    """Publish what the run has made, and show how it went, with a tree of its last step."""
    try:
        publish(run, out)
    finally:
        if last is not None:
            last.show(terminal.console)
        terminal.summary(log, out, next_commands(run.config, out), run.config.eval.num_samples)


def _show(step: int, metrics: Metrics, view: TrainingView, watch: StepWatch) -> None:
    """Show a step's metrics, and what makes it useless if anything does."""
    if step > 0:
        view.show_step(step, metrics)
        if warning := watch.observe(metrics):
            logger.warning("step %d: %s", step, warning)
    elif "eval/avg" in metrics:
        logger.info("before training: %s", accuracy_text(metrics, view.num_samples))
    elif metrics:
        logger.info("held-out reward before training: %.3f", metrics["eval/reward/mean"])

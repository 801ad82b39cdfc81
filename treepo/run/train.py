"""The loop of `treepo train`: evaluates, trains, and keeps metrics, trees, checkpoints and models."""

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from treepo.config.load import to_toml
from treepo.config.paths import with_absolute_paths
from treepo.config.schema import Config
from treepo.credit.base import Advantages
from treepo.credit.group import GRPO
from treepo.data.locations import GIVEN
from treepo.distributed import DistContext, Job, lost_as_error, resolve_device
from treepo.evaluate.records import AnswerRecord
from treepo.learn.checkpoint import Progress
from treepo.learn.trainer import StepResult
from treepo.report.diagnosis import StepWatch
from treepo.report.notebook import step_html
from treepo.report.run_log import Metrics, MetricsLog
from treepo.report.terminal import Terminal, TrainingView, accuracy_text
from treepo.report.trackers import Tracking
from treepo.run.build import Run, build_run
from treepo.run.checkpointing import CHECKPOINTS, NOT_BEGUN, RunCheckpoints
from treepo.run.hub import check_hub
from treepo.run.length import Limits, is_patience_over
from treepo.run.outputs import (
    ADAPTER,
    MODEL,
    are_trees_due,
    check_installed,
    failed_batch_kept,
    is_model_kept,
    publish,
    save_answers,
    save_best,
    save_last,
    save_trees,
    tracked,
)
from treepo.run.samples import kept_trees
from treepo.tree import Tree
from treepo.utils.io import check_unused, create_text, prepare_output_dir, preparing
from treepo.utils.signals import PhaseCallback, StepGuard

logger = logging.getLogger(__name__)


def nothing(*_: object) -> None:
    """Do nothing, for what nobody wants to be called for."""


def never() -> bool:
    """Do not stop."""
    return False


def prepare(config: Config, out: Path, terminal: Terminal, job: Job | None = None) -> Run:
    """Build the parts of a run, in each of its processes, and let the first make its folder with the resolved settings.

    Raises SettingError for settings that cannot work and for a folder that already holds something, before anything is
    written there.
    """
    job, config = job or Job(resolve_device(config.model.device)), with_absolute_paths(config)
    check_before_loading(config, out, job.processes)
    with terminal.stage("loading the model"), terminal.progress("making the base model") as report:
        run = build_run(config, report, job)
    try:
        with job.processes.synced_errors():
            if job.processes.is_first:
                make_folder(run.config, out)
    except BaseException:
        run.close()
        raise
    return run


def check_before_loading(config: Config, out: Path, processes: DistContext) -> None:
    """Raise SettingError for a folder that already holds something, and for trackers and a hub that cannot be used."""
    with processes.synced_errors():
        if processes.is_first:
            check_unused(out)
            check_hub(config.tracking)
    check_installed(config.tracking)


def make_folder(config: Config, out: Path) -> None:
    """Make the folder of a run, with its settings. Raises SettingError, WriteError."""
    prepare_output_dir(out)
    path = out / "config.toml"
    with preparing(path, "out"):
        # Of two runs that start at once in one folder, one fails here.
        create_text(path, to_toml(config))


@dataclass(frozen=True, eq=False)
class TrainStep:
    """A training step that is done, its metrics on disk. metrics: with those of its evaluation, if it had one."""

    step: int
    metrics: Metrics
    result: StepResult

    @property
    def trees(self) -> list[Tree]:
        """The trees that were grown."""
        return self.result.trees

    @property
    def rewards(self) -> list[np.ndarray]:
        """Per tree one per leaf, float64 [L]."""
        return self.result.rewards

    @property
    def advantages(self) -> list[Advantages | None]:
        """Per tree, None for one that was not trained on."""
        return self.result.advantages

    def __repr__(self) -> str:
        return f"TrainStep({self.step}, {self.result!r})"

    def _repr_html_(self) -> str:
        decode = self.trees[0].decode if self.trees else None
        return step_html(f"Step {self.step}", self.metrics, kept_trees(self.result), decode)


@dataclass(frozen=True)
class Hooks:
    """What a program wants to be called for.

    on_step: with a training step that is done; on_eval: with a step and the metrics of its evaluation; on_save: with a
    step and the folder in which something loadable or resumable was or is being written. should_stop: whether the run
    is to end after the step that is done.
    """

    on_step: Callable[[TrainStep], object] = nothing
    on_eval: Callable[[int, Metrics], object] = nothing
    on_save: Callable[[int, Path], object] = nothing
    should_stop: Callable[[], bool] = never


NO_HOOKS = Hooks()


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
                        _save_texts(run, step, out, result, answers, tracking)
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
        run.keep(lambda: save_last(run, out))
        hooks.on_save(checkpoints.progress.step, out / (MODEL if is_model_kept(settings) else ADAPTER))
        if is_first:
            _finish(run, out, terminal, log.read())
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
    if _is_evaluated(step, run.config):
        evaluated = run.evaluate(nullcontext if step else guard.growing, progress, answers.extend)
    return result, evaluated, answers


def _save_texts(
    run: Run, step: int, out: Path, result: StepResult | None, answers: list[AnswerRecord], tracking: Tracking
) -> None:
    """Save the trees of a step, if they are due, and answers of its evaluation."""
    if result is not None and are_trees_due(step, run.config.train):
        save_trees(run, step, out, result, tracking)
    save_answers(step, out, answers, run.config.tracking.sample_problems)


def _finish(run: Run, out: Path, terminal: Terminal, log: Sequence[Metrics]) -> None:
    """Publish what the run has made, and show how it went."""
    try:
        publish(run, out)
    finally:
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


def _is_evaluated(step: int, settings: Config) -> bool:
    if step == 0:
        return settings.eval.at_start
    return step == settings.train.num_steps or _is_due(step, settings.eval.every)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def next_commands(config: Config, out: Path) -> list[tuple[str, str]]:
    """(purpose, command) of what a user may want to do after this run."""
    commands = []
    if any(source.startswith(GIVEN) for source in config.data.train):
        # Only the program that started it has its rows.
        return []
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

"""From settings to trackers."""

import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from treepo.config.load import to_toml
from treepo.config.schema import Config, TrackingSettings
from treepo.credit.group import GRPO
from treepo.distributed import Job, is_lost
from treepo.errors import LostError, NonFiniteUpdateError
from treepo.learn.checkpoint import Progress
from treepo.learn.scoring import TreeBatch
from treepo.report.page.report import write_run_report
from treepo.report.run_log import MetricsLog, append_samples, choose_samples
from treepo.report.terminal import Terminal
from treepo.report.trackers import TensorBoard, Tracker, Tracking, Trackio, WandB
from treepo.report.trees import KeptTree, write_trees
from treepo.run.build import Run, build_run
from treepo.run.checkpointing import RunCheckpoints
from treepo.utils.text import error_line


def check_installed(settings: TrackingSettings) -> None:
    """Raise ValueError naming the first tracker whose package is absent; nothing is imported."""
    for name in settings.trackers:
        spec = find_spec(name)
        # A folder of that name in the current one, such as wandb leaves behind, is no package.
        if spec is None or spec.origin is None:
            raise ValueError(f"tracking.trackers: {name} is not installed: pip install 'treepo[{name}]'")


@contextmanager
def tracked(config: Config, out: Path) -> Iterator[Tracking]:
    """The trackers of the run in the folder `out`, started, and finished whatever happens.

    Raises TrackerError if one cannot be started.
    """
    settings = config.tracking
    tracking = Tracking({name: make_tracker(name, settings, out) for name in settings.trackers})
    tracking.start(tomllib.loads(to_toml(config)), settings.run_name or out.resolve().name)
    try:
        yield tracking
    finally:
        tracking.finish()


def make_tracker(name: str, settings: TrackingSettings, out: Path) -> Tracker:
    """The tracker of that name, not started."""
    if name == "wandb":
        return WandB(settings.project, out, settings.offline)
    if name == "trackio":
        return Trackio(settings.project)
    assert name == "tensorboard", "the settings know their trackers"
    return TensorBoard(out / "tensorboard")


def prepare(config: Config, out: Path, terminal: Terminal, job: Job | None = None) -> Run:
    """Build the parts of a run, in each of its processes, and let the first make its folder with the resolved settings.

    Raises ValueError for settings that cannot work and for a folder that already holds something, before anything is
    written there.
    """
    job = job or Job(config.model.device)
    with job.processes.synced_errors():
        if job.processes.is_first:
            _check_unused(out)
    check_installed(config.tracking)
    with terminal.progress("making the base model") as report:
        run = build_run(config, terminal.say, report, job)
    with job.processes.synced_errors():
        if job.processes.is_first:
            _make_folder(config, out)
    return run


def _make_folder(config: Config, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        # "x": of two runs that start at once in one folder, one fails here.
        with (out / "config.toml").open("x", encoding="utf-8") as file:
            file.write(to_toml(config))
    except OSError as error:
        raise ValueError(f"out: cannot write to {str(out)!r}: {error}") from error


def _check_unused(out: Path) -> None:
    try:
        is_used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise ValueError(f"out: cannot use {str(out)[:100]!r}: {error.strerror}") from error
    if is_used:
        raise ValueError(f"out: {str(out)!r} already holds a run or other files; give a new folder")


def train(run: Run, out: Path, terminal: Terminal, progress: Progress | None = None) -> None:
    """Evaluate, train, evaluate again; metrics, checkpoints and model are kept in `out`.

    progress: where a run that is resumed has come to. Raises FloatingPointError if logits, loss or gradients stop being
    finite; the batch of an update that did it is kept in `out`. Raises MemoryError, with what to change, for an update
    that cannot be made within memory, TrackerError if a tracker cannot be started, and Interrupted on Ctrl-C and
    SIGTERM, once the last complete step has a checkpoint. Of several processes, all of which train, the first keeps the
    folder; PeerError or LostError is raised where another one does not go on.
    """
    settings = run.config if run.processes.is_first else replace(run.config, tracking=TrackingSettings())
    with tracked(settings, out) as tracking:
        try:
            _train(run, out, terminal, progress, tracking)
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise LostError(str(error)) from error


def _train(run: Run, out: Path, terminal: Terminal, progress: Progress | None, tracking: Tracking) -> None:
    num_steps = run.config.train.num_steps
    log = MetricsLog(out / "metrics.jsonl")
    with RunCheckpoints(run, out, terminal.say, progress) as checkpoints, terminal.training(num_steps) as show:
        if progress is None:
            tracking.log(0, _evaluate_first(run, out, log, terminal, checkpoints))
        for step in range(checkpoints.last_step + 1, num_steps + 1):
            metrics = _step(run, step, out, tracking, checkpoints)
            is_best, took = checkpoints.advance(step, metrics)
            if is_best:
                _keep_best(run, out)
            metrics |= took
            if run.processes.is_first:
                log.append(step, metrics)
            checkpoints.write()
            tracking.log(step, metrics)
            show(step, metrics)
    run.keep(lambda: _keep_last(run, out))
    if run.processes.is_first:
        _report(run, out, terminal)
        terminal.summary(log.read(), out, next_commands(run.config, out))


def _keep_last(run: Run, out: Path) -> None:
    """Save what the run ended with."""
    if run.config.lora.rank:
        run.policy.save_adapter(out / "adapter")
    if is_model_kept(run.config):
        run.policy.save(out / "model")


def _report(run: Run, out: Path, terminal: Terminal) -> None:
    """Write the page of the run; what goes wrong there is told and fails nothing."""
    try:
        write_run_report(out, run.policy.decode, run.config.credit, datetime.now(UTC))
    except Exception as error:  # noqa: BLE001 - all that was trained is kept by now
        terminal.say(f"there is no report ({error_line(error)}): treepo report {out} tries again")


def _evaluate_first(
    run: Run, out: Path, log: MetricsLog, terminal: Terminal, checkpoints: RunCheckpoints
) -> dict[str, float]:
    before = run.evaluate(checkpoints.interrupts.admitted)
    if run.processes.is_first:
        log.append(0, before)
    if checkpoints.advance(0, before)[0]:
        _keep_best(run, out)
    if before:
        terminal.say(f"held out before training: {before['eval/avg']:.1%} (greedy {before['eval/greedy']:.1%})")
    return before


def _keep_best(run: Run, out: Path) -> None:
    """Save the model as the best so far, if asked for; the one before is there until this one is whole."""
    if run.config.eval.keep_best:
        run.keep(lambda: _replace_best(run, out))


def _replace_best(run: Run, out: Path) -> None:
    best, partial, before = out / "best", out / "best.partial", out / "best.before"
    for leftover in (partial, before):
        shutil.rmtree(leftover, ignore_errors=True)
    run.policy.save(partial)
    if best.exists():
        best.rename(before)
    partial.rename(best)
    shutil.rmtree(before, ignore_errors=True)


def is_model_kept(config: Config) -> bool:
    """Whether a whole model is saved at the end, not adapters alone."""
    return config.lora.merge or not config.lora.rank


def _step(run: Run, step: int, out: Path, tracking: Tracking, checkpoints: RunCheckpoints) -> dict[str, float]:
    """One training step, with its trees kept and an evaluation where they are due."""
    is_kept = _is_due(step, run.config.train.save_trees_every)
    try:
        result = run.trainer.step(step, checkpoints.begin_updates, checkpoints.interrupts.admitted, is_kept)
    except NonFiniteUpdateError as error:
        rank = f"-process-{run.processes.rank}" if run.processes.world_size > 1 else ""
        path = out / f"failed-step-{step:06d}{rank}.safetensors"
        save_file(_arrays(error.batch), path)
        raise FloatingPointError(f"step {step}: {error}; its batch is kept in {str(path)!r}") from error
    if run.processes.is_first and is_kept:
        assert result.entropies is not None
        every = result.trees, result.rewards, result.advantages, result.entropies
        kept = [KeptTree(*parts) for parts in zip(*every, strict=True)]
        write_trees(out / "trees" / f"step-{step:06d}.parquet", kept, run.policy.decode)
        settings = run.config.tracking
        samples = choose_samples(kept, run.policy.decode, settings.sample_problems, settings.sample_answers)
        append_samples(out / "samples.jsonl", step, samples)
        tracking.table(step, samples)
    if step == run.config.train.num_steps or _is_due(step, run.config.eval.every):
        return result.metrics | run.evaluate()
    return result.metrics


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _arrays(batch: TreeBatch) -> dict[str, np.ndarray]:
    return vars(batch.packed) | {"offsets": np.array(batch.offsets)}


def next_commands(config: Config, out: Path) -> list[tuple[str, str]]:
    """(what for, command) of what a user may want to do after this run."""
    commands = []
    if is_model_kept(config):
        commands.append(("Go on from this model", f"treepo train {out / 'config.toml'} --model.path {out / 'model'}"))
    star = {
        "tree.depth": 1,
        "tree.segment_len": config.tree.max_response_tokens,
        "tree.num_children": config.tree.width,
    }
    if not isinstance(config.credit, GRPO):
        settings = star | {"initial_fork.low": config.tree.width, "initial_fork.high": config.tree.width}
        options = "".join(f" --{name} {value}" for name, value in settings.items())
        commands.append(("Compare with GRPO", f"treepo train {out / 'config.toml'} --credit.use GRPO{options}"))
    return commands

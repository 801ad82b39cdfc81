"""What a run leaves in its folder beside metrics and checkpoints: trees, samples, models, its report."""

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from treepo.config.defaults import changed_settings
from treepo.config.schema import Config
from treepo.errors import NonFiniteUpdateError, WriteError
from treepo.evaluate.records import AnswerRecord
from treepo.learn.settings import TrainSettings
from treepo.learn.trainer import StepResult
from treepo.report.page.report import write_run_report
from treepo.report.run_log import append_samples, choose_samples
from treepo.report.trackers import Tracking
from treepo.report.trees import write_trees
from treepo.run.hub import push
from treepo.run.samples import greedy_samples, kept_trees
from treepo.utils.io import replace_bytes, restore_folder, writing
from treepo.utils.text import error_line

if TYPE_CHECKING:
    from treepo.run.build import Run

logger = logging.getLogger(__name__)


@contextmanager
def failed_batch_kept(run: "Run", step: int, out: Path) -> Iterator[None]:
    """Save the batch of an update that is not finite, and raise FloatingPointError, which names the file."""
    try:
        yield
    except NonFiniteUpdateError as error:
        rank = f"-process-{run.processes.rank}" if run.processes.world_size > 1 else ""
        path = out / f"failed-step-{step:06d}{rank}.safetensors"
        kept = f"its batch is kept in {str(path)!r}"
        try:
            replace_bytes(path, save(vars(error.batch.packed) | {"offsets": np.array(error.batch.offsets)}))
        except OSError as failure:
            kept = f"its batch could not be kept in {str(path)!r} ({failure.strerror})"
        raise FloatingPointError(f"step {step}: {error}; {kept}") from error


def are_trees_due(step: int, settings: TrainSettings) -> bool:
    """Whether the trees of a step are kept: those of the first and the last one, and of others at even distances."""
    every = settings.save_trees_every
    return every > 0 and step > 0 and (step in {1, settings.num_steps} or step % every == 0)


def save_trees(run: "Run", step: int, out: Path, result: StepResult, tracking: Tracking) -> None:
    """Save a step's trees, and samples of their trajectories. Raises WriteError."""
    kept = kept_trees(result)
    path = out / "trees" / f"step-{step:06d}.parquet"
    with writing(path, f"the trees of step {step}"):
        write_trees(path, kept, run.policy.decode)
    settings = run.config.tracking
    samples = choose_samples(kept, run.policy.decode, settings.sample_problems, settings.sample_answers)
    append_samples(out / "samples.jsonl", step, samples)
    tracking.table(step, samples)


def save_answers(step: int, out: Path, answers: Sequence[AnswerRecord], num_problems: int) -> None:
    """Save samples of an evaluation's answers. num_problems: of training, whose answers are kept. Raises WriteError."""
    if num_problems and (samples := greedy_samples(answers)):
        append_samples(out / "samples.jsonl", step, samples)


def save_texts(
    run: "Run", step: int, out: Path, result: StepResult | None, answers: Sequence[AnswerRecord], tracking: Tracking
) -> None:
    """Save the trees of a step, if they are due, and answers of its evaluation."""
    if result is not None and are_trees_due(step, run.config.train):
        save_trees(run, step, out, result, tracking)
    save_answers(step, out, answers, run.config.tracking.sample_problems)


BEST, MODEL, ADAPTER = "best", "model", "adapter"
"""Folders with a model or its adapter in that of a run."""


def save_best(run: "Run", out: Path, *, is_best: bool) -> None:
    """Save the model if it is the best so far and that is asked for. Raises WriteError."""
    if is_best and run.config.eval.keep_best:
        run.keep(lambda policy: _save(out / BEST, "the best model so far", policy.save))


def save_last(run: "Run", out: Path) -> None:
    """Save the adapter and the model that the run ended with. Raises WriteError."""
    if run.policy.has_adapter:
        run.keep(lambda policy: _save(out / ADAPTER, "the final adapter", policy.save_adapter))
    if is_model_kept(run.config):
        run.keep(lambda policy: _save(out / MODEL, "the final model", policy.save))


def _save(folder: Path, what: str, save: Callable[[Path], None]) -> None:
    with writing(folder, what):
        save(folder)


def restore_models(out: Path) -> None:
    """Give folders their names back that a process which ended was replacing. Raises WriteError."""
    for name in (BEST, MODEL, ADAPTER):
        with writing(out / name, "nothing"):
            restore_folder(out / name)


def publish(run: "Run", out: Path) -> None:
    """Push what the run ended with to the hub, if asked, and write its page. Raises WriteError."""
    push(run.config.tracking, out, out / (MODEL if is_model_kept(run.config) else ADAPTER))
    write_report(run, out)


def write_report(run: "Run", out: Path) -> None:
    """Write the page of the run. Raises WriteError; another error is a warning, and fails nothing."""
    try:
        write_run_report(out, run.policy.decode, run.config.credit, datetime.now(UTC), changed_settings)
    except WriteError:
        raise
    except Exception as error:  # noqa: BLE001 - all that was trained is kept by now
        again = shlex.join(["treepo", "report", str(out)])
        logger.warning("there is no report (%s): %s tries again", error_line(error), again)


def is_model_kept(config: Config) -> bool:
    """Whether a whole model is saved at the end, not adapters alone."""
    return config.lora.merge or not config.lora.is_given

"""What a run leaves in its folder beside metrics and checkpoints: trees, samples, models, its report."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from treepo.config.schema import Config
from treepo.errors import NonFiniteUpdateError
from treepo.learn.trainer import StepResult
from treepo.report.page.report import write_run_report
from treepo.report.run_log import append_samples, choose_samples
from treepo.report.trackers import Tracking
from treepo.report.trees import KeptTree, write_trees
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
        save_file(vars(error.batch.packed) | {"offsets": np.array(error.batch.offsets)}, path)
        raise FloatingPointError(f"step {step}: {error}; its batch is kept in {str(path)!r}") from error


def save_trees(run: "Run", step: int, out: Path, result: StepResult, tracking: Tracking) -> None:
    """Save a step's trees, and samples of their trajectories."""
    assert result.entropies is not None
    columns = zip(result.trees, result.rewards, result.advantages, result.entropies, strict=True)
    kept = [KeptTree(tree, rewards, advantages, entropies) for tree, rewards, advantages, entropies in columns]
    write_trees(out / "trees" / f"step-{step:06d}.parquet", kept, run.policy.decode)
    settings = run.config.tracking
    samples = choose_samples(kept, run.policy.decode, settings.sample_problems, settings.sample_answers)
    append_samples(out / "samples.jsonl", step, samples)
    tracking.table(step, samples)


def save_best(run: "Run", out: Path) -> None:
    """Save the model as the best so far, if asked for; the one before is there until this one is whole."""
    if run.config.eval.keep_best:
        run.keep(lambda: _replace_best(run, out))


def _replace_best(run: "Run", out: Path) -> None:
    best, partial, before = out / "best", out / "best.partial", out / "best.before"
    for leftover in (partial, before):
        shutil.rmtree(leftover, ignore_errors=True)
    run.policy.save(partial)
    if best.exists():
        best.rename(before)
    partial.rename(best)
    shutil.rmtree(before, ignore_errors=True)


def save_last(run: "Run", out: Path) -> None:
    """Save the adapter and the model that the run ended with."""
    if run.config.lora.rank:
        run.policy.save_adapter(out / "adapter")
    if is_model_kept(run.config):
        run.policy.save(out / "model")


def write_report(run: "Run", out: Path) -> None:
    """Write the page of the run; an error there is a warning, and fails nothing."""
    try:
        write_run_report(out, run.policy.decode, run.config.credit, datetime.now(UTC))
    except Exception as error:  # noqa: BLE001 - all that was trained is kept by now
        logger.warning("there is no report (%s): treepo report %s tries again", error_line(error), out)


def is_model_kept(config: Config) -> bool:
    """Whether a whole model is saved at the end, not adapters alone."""
    return config.lora.merge or not config.lora.rank

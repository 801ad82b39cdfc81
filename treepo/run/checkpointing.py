"""When a run's checkpoints are written: as often as asked, at a new best score, at the end, and when it has to stop."""

import hashlib
import logging
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

import torch
from pydantic import TypeAdapter
from transformers import PreTrainedModel

from treepo.errors import RESOURCE_ERRORS, EngineError, Interrupted, PeerError, VerifierError, WriteError
from treepo.learn.checkpoint import CheckpointStore, CheckpointWriter, Progress, Snapshot, step_folder, steps_in
from treepo.learn.train_state import TrainState
from treepo.learn.trainer import Trainer
from treepo.model.fsdp import full_tensor, is_sharded, plain_weights, reshard
from treepo.model.policy import Policy
from treepo.report.run_log import Metrics, held_out_score
from treepo.run.ahead import saved_ahead
from treepo.run.sampler import planner_of
from treepo.utils import GIVEN
from treepo.utils.files import JSON_BYTES, read_plain
from treepo.utils.io import PARTIAL, remove
from treepo.utils.signals import StepGuard, StepState

if TYPE_CHECKING:
    from treepo.config.schema import Config
    from treepo.run.build import Run

logger = logging.getLogger(__name__)

STOPS = Interrupted | EngineError | VerifierError | WriteError | MemoryError | GeneratorExit
"""What may end a run whose state is complete and is saved then; GeneratorExit, where a program leaves its loop. The
state is complete, too, where logits are not finite, but they may come from the weights."""

CHECKPOINTS = "checkpoints"
"""Their folder in that of the run."""

MODELS = "models"
"""The folder of models that belong to checkpoints, with `checkpoint.save_model`."""

INITIAL = "initial.json"
"""What a run starts with: its name, and checksums; see `treepo.run.resume`."""

REPEAT_S = 5.0
"""Seconds within which a second signal does not count: torchrun passes on what its processes may have received."""

INITIAL_STATE = TypeAdapter(dict[str, str])

NOT_BEGUN = Progress(step=-1, best=-1.0, best_step=-1)
"""The progress of a run before its first evaluation; its best score is below every score."""


def is_stop(error: BaseException | None) -> bool:
    """Whether it is one of STOPS, here or in another process."""
    kinds = {kind.__name__ for kind in get_args(STOPS)}
    return isinstance(error, STOPS) or (isinstance(error, PeerError) and not kinds.isdisjoint(error.kinds))


def initial_state(out: Path) -> dict[str, str]:
    """What `initial.json` in the folder of a run says; empty if there is none or it cannot be read."""
    try:
        return INITIAL_STATE.validate_json(read_plain(out / INITIAL, JSON_BYTES))
    except (OSError, ValueError):
        return {}


def resume_command(config: "Config", out: Path) -> str:
    """What goes on with the run in a folder: only the program itself where that handed its rows or its model over."""
    if any(name.startswith(GIVEN) for name in (config.model.path, *config.data.train, *config.data.eval)):
        return f"TreePOTrainer.train(resume=True) with output_dir={str(out)!r}"
    return shlex.join(["treepo", "train", "--resume", str(out)])


def recorded_run(out: Path) -> str:
    """The name of the run in a folder, which its checkpoints carry; empty if none is recorded or can be read."""
    return initial_state(out).get("run", "")


FROZEN = "frozen"
"""What `initial.json` calls the checksum of the weights that are not trained, which no checkpoint holds."""

NO_WEIGHTS = hashlib.blake2b(digest_size=16).hexdigest()
"""The checksum of no weights, recorded where the initial ones will not be needed again."""


def weights_checksums(model: PreTrainedModel) -> tuple[str, str]:
    """(a checksum of all weights, one of those that are not trained)."""
    whole, frozen = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    is_trained = {name: parameter.requires_grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    if is_sharded(model):
        reshard(model)
    for name, tensor in sorted(plain_weights(model).items()):
        content = full_tensor(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for checksum in (whole, frozen):
            if checksum is whole or not is_trained.get(name, False):
                checksum.update(name.encode())
                checksum.update(content)
    return whole.hexdigest(), frozen.hexdigest()


def train_state_of(trainer: Trainer) -> TrainState:
    """The state that training changes."""
    updater, planner = trainer.updater, planner_of(trainer.sampler)
    return TrainState(trainer.policy.model, updater.optimizer, updater.schedule, trainer.processes, planner)


class RunCheckpoints:
    """Follows a run from step to step; while entered, its guard turns signals into Interrupted.

    progress: of a run that is resumed, NOT_BEGUN for a new one. guard: its state says whether the weights are those of
    the last complete step, which is saved when the run ends or has to stop.
    """

    def __init__(self, run: "Run", out: Path, progress: Progress) -> None:
        self.run = run
        self.out = out
        self.progress = progress
        self.guard = StepGuard(REPEAT_S if run.processes.world_size > 1 else 0.0)
        keep = run.config.checkpoint.keep
        store = CheckpointStore(out / CHECKPOINTS, keep, run.job.background, recorded_run(out))
        self.writer = CheckpointWriter(store)
        self._last_written = progress.step
        self._next = progress
        self._snapshot: Snapshot | None = None
        self.stopped_by = ""
        """Why the run stops before its last step, to be resumed later; empty if it does not."""

    def __enter__(self) -> Self:
        self.guard.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if not (isinstance(error, Interrupted) and error.is_urgent):
                self.writer.wait()
                if error is None or (self.guard.state is StepState.COMPLETE and is_stop(error)):
                    self._save_last_step(is_stopped=error is not None or bool(self.stopped_by))
                if isinstance(error, RESOURCE_ERRORS):
                    error.add_note(f"checkpoints: {self.writer.store.last()}")
        finally:
            self.guard.__exit__(kind, error, at)

    def finish_step(self, step: int, metrics: Metrics) -> tuple[bool, Metrics]:
        """Note that a step is done, with its evaluation: (whether its score is the best so far, more metrics of it).

        These are the seconds that its checkpoint took, if it has one, and the evaluations since the best one, if they
        are limited.

        The state is copied here, after what was being written before is on disk.
        """
        more: Metrics = {}
        score = held_out_score(metrics)
        num_not_better = self.progress.num_not_better + (score is not None)
        if score is not None and (self.progress.best_step < 0 or score > self.progress.best):
            self._next = Progress(step, score, step)
        else:
            self._next = replace(self.progress, step=step, num_not_better=num_not_better)
        is_best = self._next.best_step == step
        if self.run.config.eval.patience and score is not None:
            more["eval/num_not_better"] = float(self._next.num_not_better)
        every = self.run.config.checkpoint.every
        if not every or step == 0 or not (is_best or step % every == 0):
            return is_best, more
        start = perf_counter()
        self.writer.wait()
        self._snapshot = self._copy(self._next)
        return is_best, more | {"time/checkpoint_s": perf_counter() - start}

    def complete_step(self) -> None:
        """Note that the metrics of the step are on disk: from here on its state may be saved, and not before, since a
        run is resumed with the metrics of all its steps."""
        self.progress = self._next
        self.guard.state = StepState.COMPLETE

    def write(self) -> bool:
        """Begin to write what `finish_step` copied, now that all other files of the step are on disk; whether there is
        anything."""
        if self._snapshot is None:
            return False
        self._begin(self._snapshot)
        self._snapshot = None
        return True

    def _copy(self, progress: Progress) -> Snapshot:
        """The state after a step, with the trees that grow ahead, which are waited for."""
        trainer = self.run.trainer
        files = saved_ahead(trainer, progress.step) if trainer.overlap else {}
        return replace(Snapshot.of(train_state_of(trainer), progress), files=files)

    def _begin(self, snapshot: Snapshot) -> None:
        self._last_written = snapshot.progress.step
        self.writer.start(snapshot)
        if self.run.config.checkpoint.save_model:
            self.run.keep(partial(self._save_model, snapshot.progress))

    def _save_model(self, progress: Progress, policy: Policy) -> None:
        """Write the model or, where adapters are trained, the adapter of the step; those of checkpoints that are no
        longer kept are dropped. A warning says what could not be written."""
        folder = self.out / MODELS
        save = policy.save_adapter if policy.has_adapter else policy.save
        try:
            # What a process left that was ended while it wrote.
            for path in folder.glob(f"step-*{PARTIAL}"):
                remove(path)
            save(step_folder(folder, progress.step))
            for step in self.writer.store.dropped(steps_in(folder), progress):
                remove(step_folder(folder, step))
        except OSError as error:
            logger.warning("the model of step %d could not be written (%s)", progress.step, error.strerror or error)

    def _save_last_step(self, is_stopped: bool) -> None:
        if self.progress == NOT_BEGUN:
            return
        if self._last_written < self.progress.step or self.writer.failure:
            self._begin(self._copy(self.progress))
            self.writer.wait()
        if is_stopped:
            again = resume_command(self.run.config, self.out)
            saved = "" if not self.writer.failure else f", which could not be saved ({self.writer.store.last()})"
            reason = f" ({self.stopped_by})" if self.stopped_by else ""
            logger.info("Stopped after step %d%s%s. To go on:  %s", self.progress.step, reason, saved, again)

    def check_written(self) -> None:
        """Raise WriteError if the last checkpoint could not be written."""
        if self.writer.failure:
            lost = f"the checkpoint of step {self.progress.step}; {self.writer.store.last()}"
            raise WriteError(self.out / CHECKPOINTS, self.writer.failure, lost)

"""When a run's checkpoints are written: as often as asked, at a new best score, at the end, and when it has to stop."""

import logging
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

from treepo.config.schema import Config
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import EngineError, Interrupted, PeerError, VerifierError
from treepo.learn.checkpoint import CheckpointStore, CheckpointWriter, Progress, Snapshot
from treepo.report.run_log import Metrics
from treepo.utils.signals import StepGuard, StepState

if TYPE_CHECKING:
    from treepo.run.build import Run

logger = logging.getLogger(__name__)

STOPS = Interrupted | EngineError | VerifierError
"""Errors after which a state that is complete may be saved. It is complete, too, where logits are not finite, but they
may come from the weights."""

REPEAT_S = 5.0
"""Seconds within which a second signal does not count: torchrun passes on what its processes may have received."""

WORST = -1.0
"""Below every score."""

NONE = -1
"""The step of the best score where there was none."""


def checkpoint_store(config: Config, out: Path, processes: DistContext = SINGLE_PROCESS) -> CheckpointStore:
    """The checkpoints of the run in a folder."""
    return CheckpointStore(out / "checkpoints", config.checkpoint.keep, processes)


def is_stop(error: BaseException | None) -> bool:
    """Whether it is one of STOPS, here or in another process."""
    kinds = {kind.__name__ for kind in get_args(STOPS)}
    return isinstance(error, STOPS) or (isinstance(error, PeerError) and not kinds.isdisjoint(error.kinds))


class RunCheckpoints:
    """Follows a run from step to step; while entered, its guard turns signals into Interrupted.

    progress: of a run that is resumed, None for a new one. guard: its state says whether the weights are those of the
    last complete step, which is saved when the run ends or has to stop.
    """

    def __init__(self, run: "Run", out: Path, progress: Progress | None) -> None:
        self.run = run
        self.out = out
        self.progress = progress
        self.guard = StepGuard(REPEAT_S if run.processes.world_size > 1 else 0.0)
        self.writer = CheckpointWriter(checkpoint_store(run.config, out, run.job.background))
        self._last_written = -1 if progress is None else progress.step
        self._snapshot: Snapshot | None = None

    @property
    def last_step(self) -> int:
        """The last complete step; -1 before the first evaluation."""
        return -1 if self.progress is None else self.progress.step

    def __enter__(self) -> Self:
        self.guard.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if not (isinstance(error, Interrupted) and error.is_urgent):
                self.writer.wait()
                is_complete = self.guard.state is StepState.COMPLETE and is_stop(error)
                if self.progress is not None and (error is None or is_complete):
                    self._save_last_step()
                    if error is not None:
                        command = f"treepo train --resume {self.out}"
                        logger.info("Stopped after step %d. To go on:  %s", self.last_step, command)
        finally:
            self.guard.__exit__(kind, error, at)

    def complete_step(self, step: int, metrics: Metrics) -> tuple[bool, Metrics]:
        """Note that a step is complete, with its evaluation: (whether its score is the best so far, the seconds that
        its checkpoint took, if it has one).

        The state is copied here, after what was being written before is on disk.
        """
        score, last = metrics.get("eval/avg", WORST), self.progress or Progress(0, WORST, NONE)
        is_best = score > last.best
        self.progress = Progress(step, *((score, step) if is_best else (last.best, last.best_step)))
        self.guard.state = StepState.COMPLETE
        every = self.run.config.checkpoint.every
        if not every or step == 0 or not (is_best or step % every == 0):
            return is_best, {}
        start = perf_counter()
        self.writer.wait()
        self._snapshot = Snapshot.of(self.run.train_state, self.progress)
        return is_best, {"time/checkpoint_s": perf_counter() - start}

    def write(self) -> None:
        """Begin to write what `complete_step` copied, now that the step's metrics are on disk."""
        if self._snapshot is not None:
            self._begin(self._snapshot)
            self._snapshot = None

    def _begin(self, snapshot: Snapshot) -> None:
        self._last_written = snapshot.progress.step
        self.writer.start(snapshot)

    def _save_last_step(self) -> None:
        assert self.progress is not None
        if self._last_written < self.last_step or self.writer.has_failed:
            self._begin(Snapshot.of(self.run.train_state, self.progress))
            self.writer.wait()

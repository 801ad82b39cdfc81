"""When a run's checkpoints are written: as often as asked, at a new best score, at the end, and when it has to stop."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self, get_args

from treepo.config.schema import Config
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import EngineError, Interrupted, PeerError, VerifierError
from treepo.learn.checkpoint import CheckpointStore, CheckpointWriter, Progress, Snapshot
from treepo.report.run_log import Metrics
from treepo.run.build import Run
from treepo.utils.signals import Interrupts

STOPS = Interrupted | EngineError | VerifierError
"""What may end a run while a step only grows, when the state is that of the last complete step. So it is where logits
are not finite, but they may come from the weights."""

REPEAT_S = 5.0
"""Within which a second signal is not meant: torchrun passes on what its processes may have been sent, too."""

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
    """Follows a run from step to step; while entered, signals stop it between two of them.

    progress: where a run that is resumed has come to, None for a new one. notify: told in a line what failed.
    """

    def __init__(self, run: Run, out: Path, notify: Callable[[str], None], progress: Progress | None) -> None:
        self.run = run
        self.out = out
        self.notify = notify
        self.progress = progress
        self.interrupts = Interrupts(REPEAT_S if run.processes.world_size > 1 else 0.0)
        self.writer = CheckpointWriter(checkpoint_store(run.config, out, run.job.background), notify)
        self.is_intact = True
        self._begun = -1 if progress is None else progress.step
        self._snapshot: Snapshot | None = None

    @property
    def last_step(self) -> int:
        """The last complete step; -1 before the first evaluation."""
        return -1 if self.progress is None else self.progress.step

    def __enter__(self) -> Self:
        self.interrupts.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if not (isinstance(error, Interrupted) and error.is_urgent):
                self.interrupts.hold()
                is_intact = error is None or (self.is_intact and is_stop(error))
                self._finish(is_intact, is_stopped=error is not None)
        finally:
            self.interrupts.__exit__(kind, error, at)

    def begin_updates(self) -> None:
        """From here on the state is no longer that of the last complete step."""
        self.is_intact = False

    def advance(self, step: int, metrics: Metrics) -> tuple[bool, Metrics]:
        """A step is complete: (whether its score is the best so far, seconds that its checkpoint took, if it has one).

        The state is copied here, after what was being written before is on disk.
        """
        score, last = metrics.get("eval/avg", WORST), self.progress or Progress(0, WORST, NONE)
        is_best = score > last.best
        self.progress = Progress(step, *((score, step) if is_best else (last.best, last.best_step)))
        self.is_intact = True
        every = self.run.config.checkpoint.every
        if not every or step == 0 or not (is_best or step % every == 0):
            return is_best, {}
        start = perf_counter()
        self.writer.wait()
        self._snapshot = Snapshot.of(self.run.train_state, self.progress)
        return is_best, {"time/checkpoint_s": perf_counter() - start}

    def write(self) -> None:
        """Begin to write what `advance` copied, now that the step's metrics are on disk."""
        if self._snapshot is not None:
            self._begin(self._snapshot)
            self._snapshot = None

    def _begin(self, snapshot: Snapshot) -> None:
        self._begun = snapshot.progress.step
        self.writer.start(snapshot)

    def _finish(self, is_intact: bool, is_stopped: bool) -> None:
        """See what is being written to the disk, and the last complete step too, if the state still is that step's."""
        self.writer.wait()
        if self.progress is None or not is_intact:
            return
        if self._begun < self.last_step or self.writer.has_failed:
            self._begin(Snapshot.of(self.run.train_state, self.progress))
            self.writer.wait()
        if is_stopped:
            self.notify(f"Stopped after step {self.last_step}. To go on:  treepo train --resume {self.out}")

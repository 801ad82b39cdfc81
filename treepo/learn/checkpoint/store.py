"""The checkpoints of a run, each a folder that is there as a whole or not at all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from treepo.files import PARTIAL, sync, write_text
from treepo.learn.checkpoint.learner import Learner
from treepo.learn.checkpoint.manifest import DamagedError, check_manifest, write_manifest
from treepo.learn.checkpoint.sharded import save_tensors
from treepo.processes import ALONE, PeerError, Processes

STATE = "state.json"


@dataclass(frozen=True)
class Progress:
    """How far a run has come: its last complete step, and the best held-out score so far and its step, -1 if none."""

    step: int
    best: float
    best_step: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy of the state after a step; scalars: see Learner."""

    progress: Progress
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]

    @classmethod
    def of(cls, learner: Learner, progress: Progress) -> "Snapshot":
        """The state of a learner as it is now."""
        return cls(progress, learner.copy_tensors(), learner.scalars())


@dataclass(frozen=True)
class CheckpointStore:
    """The folder checkpoints/ of a run, on a disk that all processes see. keep: how many are kept, besides the best.
    processes: those that write together, over a group of their own if that happens beside training; the first names,
    drops and checks, and all take part in `write`."""

    folder: Path
    keep: int
    processes: Processes = ALONE

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        names = [path.name for path in self.folder.glob("step-*") if path.is_dir()]
        return sorted(int(name[5:]) for name in names if name[5:].isdecimal())

    def write(self, snapshot: Snapshot) -> None:
        """Write a checkpoint under another name, give it its own, and drop those that are not kept.

        Raises OSError if it cannot be written, or PeerError if that is what happened to the first process; the
        checkpoints there were are then as they were.
        """
        final = self._path(snapshot.progress.step)
        partial = final.with_name(final.name + PARTIAL)
        try:
            with self.processes.together():
                if self.processes.is_first:
                    self._drop_partial()
                    partial.mkdir(parents=True)
            save_tensors(partial, snapshot.tensors, self.processes.group)
            with self.processes.together():
                if self.processes.is_first:
                    self._complete(partial, final, snapshot)
        except (OSError, PeerError):
            # What was written takes room on a disk that may be full.
            if self.processes.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _complete(self, partial: Path, final: Path, snapshot: Snapshot) -> None:
        """Add the rest to the tensors, and give the whole its name."""
        write_text(partial / STATE, json.dumps(asdict(snapshot.progress) | snapshot.scalars))
        write_manifest(partial)
        if final.exists():
            # Damaged, or the run would have gone on from it.
            shutil.rmtree(final)
        partial.rename(final)
        sync(self.folder)
        self._prune(snapshot.progress)

    def newest(self, notify: Callable[[str], None]) -> int | None:
        """The step of the newest checkpoint that is as it was written. notify: told in a line of each that is not."""
        for step in reversed(self.steps()):
            try:
                check_manifest(self._path(step))
            except DamagedError as error:
                notify(f"checkpoint of step {step} is damaged and passed over: {error}")
            else:
                return step
        return None

    def restore(self, step: int, learner: Learner) -> Progress:
        """Put a learner into the state of a checkpoint that `newest` has found to be whole.

        Raises ValueError if it is of another model.
        """
        state = json.loads((self._path(step) / STATE).read_text(encoding="utf-8"))
        learner.restore(self._path(step), state)
        return Progress(state["step"], state["best"], state["best_step"])

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _drop_partial(self) -> None:
        """Remove what a process left that was ended while it wrote."""
        for path in self.folder.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(path)

    def _prune(self, progress: Progress) -> None:
        """Drop all but the last few and the best. Later ones than the one just written were passed over as damaged."""
        upto = [step for step in self.steps() if step <= progress.step]
        kept = {*upto[-self.keep :], progress.best_step}
        for step in self.steps():
            if step not in kept or step > progress.step:
                shutil.rmtree(self._path(step))

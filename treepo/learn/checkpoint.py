"""Checkpoints on disk: written in the background, complete or not there at all."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from threading import Thread
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor, nn

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import DamagedError, LostError, PeerError, SettingError
from treepo.learn.manifest import Identity, check_manifest, read_manifest, write_manifest
from treepo.learn.train_state import TrainState, load_weights, save_tensors
from treepo.utils.files import JSON_BYTES, read_plain
from treepo.utils.io import PARTIAL, remove, replace_bytes, sync, write_text
from treepo.utils.text import error_line

logger = logging.getLogger(__name__)

STATE = "state.json"


@dataclass(frozen=True)
class Progress:
    """How far a run has come: its last complete step, and the best validation score so far and its step, -1 if none.

    num_not_better: evaluations since then.
    """

    step: int
    best: float
    best_step: int
    num_not_better: int = 0


PROGRESS = TypeAdapter(Progress)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy of the state after a step (see TrainState). files: what else is kept of it, by the names of its files."""

    progress: Progress
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, train_state: TrainState, progress: Progress) -> "Snapshot":
        """A copy of the state as it is now."""
        return cls(progress, train_state.copy_tensors(), train_state.scalars())


def step_folder(folder: Path, step: int) -> Path:
    """The folder of a step in a folder that has one for each."""
    return folder / f"step-{step:06d}"


def steps_in(folder: Path) -> list[int]:
    """The steps that have a folder in a folder, in order."""
    names = [path.name for path in folder.glob("step-*") if path.is_dir()]
    return sorted(int(name[5:]) for name in names if name[5:].isdecimal())


@dataclass(frozen=True)
class CheckpointStore:
    """The folder checkpoints/ of a run, on a disk that all processes see.

    keep: how many are kept, besides the best. processes: those that write together, over a group of their own if that
    happens beside training; the first names, drops and checks, and all take part in `write`. run: the name of the run
    in `Identity`; that of its checkpoints is not looked at if it is empty.
    """

    folder: Path
    keep: int
    processes: DistContext = SINGLE_PROCESS
    run: str = ""

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        return steps_in(self.folder)

    def last(self) -> str:
        """Which checkpoint is the last, in words."""
        steps = self.steps()
        return f"the last one is of step {steps[-1]}" if steps else "there is none yet"

    def write(self, snapshot: Snapshot) -> None:
        """Write a checkpoint under another name, give it its own, and drop those that are not kept.

        Raises OSError if it cannot be written, or PeerError if that is what happened to the first process; the
        checkpoints there were are then as they were.
        """
        final = self._path(snapshot.progress.step)
        partial = final.with_name(final.name + PARTIAL)
        try:
            with self.processes.synced_errors():
                if self.processes.is_first:
                    # What a process left that was ended while it wrote.
                    for path in self.folder.glob(f"step-*{PARTIAL}"):
                        remove(path)
                    partial.mkdir(parents=True)
            save_tensors(partial, snapshot.tensors, self.processes.group)
            with self.processes.synced_errors():
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
        for name, content in snapshot.files.items():
            replace_bytes(partial / name, content)
        write_manifest(partial, Identity(self.run, snapshot.progress.step))
        if final.exists():
            # It is damaged, or the run would have been resumed from it.
            remove(final)
        partial.rename(final)
        sync(self.folder)
        self._prune(snapshot.progress)

    def newest(self, last_step: int | None = None) -> int | None:
        """The step of the newest checkpoint, up to `last_step` if given, that is as it was written; a warning names
        each that is not.

        Raises SettingError if there is one that was written by another run, or at another step.
        """
        self._check_identities()
        for step in reversed(self.steps()):
            if last_step is not None and step > last_step:
                continue
            try:
                check_manifest(self._path(step))
            except DamagedError as error:
                logger.warning("checkpoint of step %d is damaged and passed over: %s", step, error)
            else:
                return step
        return None

    def _check_identities(self) -> None:
        for step, identity in self._identities():
            whose = "of another run" if self.run and identity.run != self.run else ""
            if identity.step != step:
                whose = f"of step {identity.step}"
            if whose:
                message = (
                    f"{str(self._path(step))!r} is a checkpoint {whose}; remove it to go on from those of this run"
                )
                raise SettingError("resume", message)

    def _identities(self) -> Iterator[tuple[int, Identity]]:
        """What the manifests say that can be read, newest first, with the steps that the folders are named after."""
        for step in reversed(self.steps()):
            with suppress(DamagedError):
                yield step, read_manifest(self._path(step))[0]

    def found_run(self) -> str:
        """The name of the run in the newest manifest that can be read; empty if there is none."""
        return next((identity.run for _, identity in self._identities()), "")

    def restore(self, step: int, train_state: TrainState) -> Progress:
        """Load a checkpoint that `newest` has found to be whole.

        Raises SettingError if it is of another model, or holds something else.
        """
        state, progress = self._read_state(step)
        with self._refusing(step):
            train_state.restore(self._path(step), state)
        self._check_step(step, progress)
        return progress

    def restore_weights(self, step: int, model: nn.Module) -> Progress:
        """Load the weights alone of a checkpoint that `newest` has found to be whole; raises like `restore`."""
        _, progress = self._read_state(step)
        with self._refusing(step):
            load_weights(self._path(step), model)
        self._check_step(step, progress)
        return progress

    def progress(self, step: int) -> Progress:
        """How far the run had come at a checkpoint that `newest` has found to be whole; raises like `restore`."""
        progress = self._read_state(step)[1]
        self._check_step(step, progress)
        return progress

    def _read_state(self, step: int) -> tuple[dict[str, Any], Progress]:
        """(the state besides tensors, the progress in it) of a checkpoint."""
        path = self._path(step) / STATE
        with self._refusing(step):
            state = json.loads(read_plain(path, JSON_BYTES))
            # Those of earlier versions do not count evaluations.
            names = [name for name in (f.name for f in fields(Progress)) if name in state]
            progress = PROGRESS.validate_python({name: state[name] for name in names})
        return state, progress

    def _check_step(self, step: int, progress: Progress) -> None:
        if progress.step != step:
            path = self._path(step) / STATE
            raise SettingError("resume", f"{str(path)!r} is the state of step {progress.step}")

    @contextmanager
    def _refusing(self, step: int) -> Iterator[None]:
        """Raise SettingError for what a checkpoint holds though its checksum is right: somebody has made it."""
        try:
            yield
        except SettingError:
            raise
        except (OSError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            path = self._path(step) / STATE
            raise SettingError("resume", f"{str(path)!r} holds no state of a run: {error_line(error)}") from error

    def _path(self, step: int) -> Path:
        return step_folder(self.folder, step)

    def _prune(self, progress: Progress) -> None:
        """Drop all but the last few and the best. Later ones than the one just written were passed over as damaged."""
        for step in self.dropped(self.steps(), progress):
            shutil.rmtree(self._path(step))

    def dropped(self, steps: Sequence[int], progress: Progress) -> list[int]:
        """Those of the steps, in order, that are not kept beside the one just written."""
        kept = {*[step for step in steps if step <= progress.step][-self.keep :], progress.best_step}
        return [step for step in steps if step not in kept or step > progress.step]


class CheckpointWriter:
    """Writes snapshots to a store in a thread; a warning says what could not be written.

    failure: why the last one could not; empty if it could.
    The thread is a daemon, so that a process that is asked to end at once does not wait for it.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self.failure = ""
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, snapshot: Snapshot) -> None:
        """Begin to write, once what was begun before is done."""
        self.wait()
        self._thread = Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written. Raises what went wrong if it was not the disk's fault."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, snapshot: Snapshot) -> None:
        step = snapshot.progress.step
        try:
            self.store.write(snapshot)
            self.failure = ""
        except (OSError, PeerError, LostError) as error:
            self.failure = (isinstance(error, OSError) and error.strerror) or str(error)
            logger.warning("checkpoint of step %d could not be written (%s); %s", step, self.failure, self.store.last())
        except BaseException as error:  # noqa: BLE001 - raised again in `wait`, by the thread that can do so
            self._error = error

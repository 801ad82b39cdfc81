"""Writes checkpoints in the background, one at a time."""

from collections.abc import Callable
from threading import Thread

from treepo.learn.checkpoint.store import CheckpointStore, Snapshot
from treepo.processes import LostError, PeerError


class CheckpointWriter:
    """Writes snapshots to a store in a thread. notify: told in a line of what could not be written.

    The thread is a daemon, so that a process that is told to end at once does not wait for it.
    """

    def __init__(self, store: CheckpointStore, notify: Callable[[str], None]) -> None:
        self.store = store
        self.notify = notify
        self.has_failed = False
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
            self.has_failed = False
        except (OSError, PeerError, LostError) as error:
            self.has_failed = True
            there = self.store.steps()
            last = f"the last one is of step {there[-1]}" if there else "there is none yet"
            reason = (isinstance(error, OSError) and error.strerror) or error
            self.notify(f"checkpoint of step {step} could not be written ({reason}); {last}")
        except BaseException as error:  # noqa: BLE001 - raised again in `wait`, by the thread that can do so
            self._error = error

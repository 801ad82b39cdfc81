"""Forking environments whose state lies in a sandbox of a provider: by its snapshots."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from treepo.envs.base import Calls, run_calls

if TYPE_CHECKING:
    from treepo.data.problem import Problem


class Snapshot(Protocol):
    """The state of an environment, kept by a provider. Each method may be a coroutine."""

    def restore(self) -> Any:
        """Return an environment in this state, with `step`, `snapshot` and `close`; may be called several times."""
        ...

    def delete(self) -> object:
        """Give back what the snapshot takes; nothing is called after it."""
        ...


class SnapshotFork:
    """An environment that forks by snapshots of a sandbox: a container, a virtual machine, a folder, a database.

    factory: makes the environment itself, with `reset`, `step`, `close`, and `snapshot`, which returns a `Snapshot` of
    its state. One is taken per state that forks, however often it forks; a fork is restored from it when it first
    acts, so forks that never act cost nothing; and it is deleted when the last one that could need it is gone.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory
        self.inner: Any = None
        self.held: _Held | None = None

    def reset(self, problem: Problem) -> Any:
        self.inner = self.factory()
        return self.inner.reset(problem)

    def step(self, assistant_text: str) -> Any:
        return run_calls(self._step(assistant_text))

    def fork(self) -> Any:
        return run_calls(self._fork())

    def close(self) -> Any:
        return run_calls(self._close())

    def _step(self, text: str) -> Calls:
        if self.inner is None:
            assert self.held is not None, "an environment is reset before it acts"
            self.inner = yield self.held.snapshot.restore()
        yield from self._release()
        inner: Any = self.inner
        return (yield inner.step(text))

    def _fork(self) -> Calls:
        if self.held is None:
            self.held = _Held((yield self.inner.snapshot()))
        other = SnapshotFork(self.factory)
        other.held = self.held.again()
        return other

    def _close(self) -> Calls:
        yield from self._release()
        if self.inner is not None:
            yield self.inner.close()

    def _release(self) -> Calls:
        """Hold the snapshot no longer: the state is about to change, or to end."""
        held, self.held = self.held, None
        if held is not None and held.is_last():
            yield held.snapshot.delete()


class _Held:
    """A snapshot and how many environments hold it; they may be in several threads."""

    def __init__(self, snapshot: Any) -> None:
        self.snapshot = snapshot
        self.count = 1
        self.lock = Lock()

    def again(self) -> _Held:
        """The same, for one more."""
        with self.lock:
            self.count += 1
        return self

    def is_last(self) -> bool:
        """Let go of it; whether nobody holds it any more."""
        with self.lock:
            self.count -= 1
            return self.count == 0

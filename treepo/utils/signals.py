"""What a training step tells the outside and hears from it: its phase, its state, and Ctrl-C and SIGTERM, which stop a
run where nothing is half done."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Self

from treepo.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTE = b"treepo: stopping at the next point where nothing is half done; once more to stop at once\n"
STOP_NOTE = b"treepo: stopping after the step in progress\n"

PhaseCallback = Callable[[str, int, int], None]
"""Called with (what is being done, units done, units in all), often; the receiver chooses what it shows."""


def no_progress(phase: str, done: int, total: int) -> None:
    """Show nothing: the PhaseCallback of callers that want none."""


class StopRequest:
    """While entered, SIGUSR1 asks a run to stop after the step in progress, as schedulers do before a time limit.

    is_made: whether it was asked. Asking once more changes nothing.
    """

    def __init__(self) -> None:
        self.is_made = False
        self._handler_before: Any = None

    def __enter__(self) -> Self:
        # Elsewhere Python takes no handlers.
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGUSR1, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handler_before is not None:
            signal.signal(signal.SIGUSR1, self._handler_before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.is_made:
            # Not `print`: this may run in the middle of one.
            os.write(2, STOP_NOTE)
        self.is_made = True


class StepState(Enum):
    """What a step is doing, as far as weights and signals are concerned."""

    COMPLETE = auto()
    """The weights, the schedule and the metrics are those of the last complete step; signals wait."""

    GROWING = auto()
    """The same, while trees are grown or answers sampled: signals come through at once."""

    UPDATING = auto()
    """The weights change, or the step that changed them is not complete yet; signals wait."""


class StepGuard:
    """The state of the step that a run is in; while entered, SIGINT and SIGTERM raise Interrupted where it allows it.

    The first signal is raised at once while GROWING, and otherwise when GROWING begins next; the second one anywhere.
    repeat_s: a signal that comes within so many seconds of the first is the same one, sent twice.
    """

    def __init__(self, repeat_s: float = 0.0) -> None:
        self.state = StepState.COMPLETE
        self.repeat_s = repeat_s
        self._came_at = 0.0
        self._signum: int | None = None
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Elsewhere Python takes no handlers, and the main thread's stay.
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for signum, handler in self._handlers_before.items():
            signal.signal(signum, handler)

    @contextmanager
    def growing(self) -> Iterator[None]:
        """GROWING while this lasts, and COMPLETE after it."""
        assert self.state is StepState.COMPLETE, f"a step that is {self.state.name} grows nothing"
        self.state = StepState.GROWING
        try:
            if self._signum is not None:
                raise Interrupted(self._signum, is_urgent=False)
            yield
        finally:
            self.state = StepState.COMPLETE

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        is_urgent = self._signum is not None
        if is_urgent and monotonic() - self._came_at < self.repeat_s:
            return
        self._signum, self._came_at = signum, monotonic()
        if not is_urgent:
            # Not `print`: this may run in the middle of one. Standard error may be closed, full, or read by nobody.
            with suppress(OSError):
                os.write(2, NOTE)
        if is_urgent or self.state is StepState.GROWING:
            raise Interrupted(signum, is_urgent)

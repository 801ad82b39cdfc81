"""Ctrl-C and SIGTERM: a run stops where nothing is half done."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Self

from treepo.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTE = b"treepo: stopping at the next point where nothing is half done; once more to stop at once\n"


class Interrupts:
    """While entered, SIGINT and SIGTERM raise Interrupted: the first one where `admit` was called last, and from
    `admit` if it came when `hold` had been; the second one anywhere. repeat_s: what comes so soon after the first is
    the same one, told twice."""

    def __init__(self, repeat_s: float = 0.0) -> None:
        self.repeat_s = repeat_s
        self._came_at = 0.0
        self.is_admitted = False
        self._signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Elsewhere Python takes no handlers, and the main thread's stay.
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A signal may come through while this lasts."""
        try:
            self.admit()
            yield
        finally:
            self.hold()

    def admit(self) -> None:
        """From here on nothing is half done, and a signal may come through."""
        self.is_admitted = True
        if self._signum is not None:
            raise Interrupted(self._signum, is_urgent=False)

    def hold(self) -> None:
        """From here on a signal waits."""
        self.is_admitted = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        is_urgent = self._signum is not None
        if is_urgent and monotonic() - self._came_at < self.repeat_s:
            return
        self._signum, self._came_at = signum, monotonic()
        if not is_urgent:
            # Not `print`: this may run in the middle of one.
            os.write(2, NOTE)
        if is_urgent or self.is_admitted:
            raise Interrupted(signum, is_urgent)

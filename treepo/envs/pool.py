"""Calls into environments, many at once in threads, each with a time limit."""

import asyncio
import queue
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from inspect import isawaitable
from time import monotonic, sleep
from typing import Any

from treepo.errors import SettingError

CLOSE_S = 5.0
"""Seconds that pending calls get when the pool is closed."""

POLL_S = 0.05
"""Seconds between two looks at the clocks of running calls."""


@dataclass(frozen=True, eq=False)
class CallResult:
    """What a call came to: its value, or the exception that it raised, a TimeoutError if it took too long; and its
    seconds."""

    key: Hashable
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0


class EnvironmentPool:
    """Runs calls in daemon threads; one that takes too long is given up, and another thread takes the place of its own.

    A thread that was given up ends when its call returns; nothing can end it before. Coroutines run in one event loop,
    which a thread of its own keeps, and are cancelled after their time. num_workers: calls at a time. timeout_s: most
    seconds of a call, from when it begins.
    """

    def __init__(self, num_workers: int = 32, timeout_s: float = 60.0) -> None:
        if num_workers < 1:
            raise SettingError("num_workers", "must be at least 1", num_workers)
        if not timeout_s > 0:
            raise SettingError("timeout_s", "must be positive", timeout_s)
        self.num_workers, self.timeout_s = num_workers, timeout_s
        self.calls: queue.SimpleQueue[tuple[int, Hashable, Callable[[], Any]] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[CallResult] = queue.SimpleQueue()
        self.lock = threading.RLock()
        self.running: dict[int, tuple[Hashable, float]] = {}
        self.num_pending = self.num_submitted = self.num_threads = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def submit(self, key: Hashable, call: Callable[[], Any]) -> None:
        """Run a call when a thread is free. key: comes back with its result."""
        self.num_pending += 1
        self.num_submitted += 1
        self.calls.put((self.num_submitted, key, call))
        with self.lock:
            if self.num_threads < min(self.num_workers, self.num_pending):
                self._start_thread()

    def poll(self, wait: bool) -> list[CallResult]:
        """The calls that have come to an end; wait: until there is one, if any is pending."""
        found: list[CallResult] = []
        while True:
            self._give_up_late()
            with suppress(queue.Empty):
                while True:
                    found.append(self.results.get(block=wait and not found and bool(self.num_pending), timeout=POLL_S))
                    self.num_pending -= 1
            if found or not wait or not self.num_pending:
                return found

    def drop_waiting(self, is_kept: Callable[[Any], bool] = lambda _: False) -> None:
        """Forget the calls that have not begun, but for those whose keys are kept."""
        waiting = []
        with suppress(queue.Empty):
            while True:
                waiting.append(self.calls.get(block=False))
        for call in waiting:
            if call is not None and is_kept(call[1]):
                self.calls.put(call)
            else:
                self.num_pending -= 1

    def close(self, on_result: Callable[[CallResult], None]) -> None:
        """End the threads, after at most CLOSE_S seconds for calls that are pending; others end after their calls.

        on_result: is given what these come to.
        """
        end = monotonic() + CLOSE_S
        while self.num_pending and monotonic() < end:
            for result in self.poll(wait=False):
                on_result(result)
            sleep(POLL_S / 10)
        self.drop_waiting()
        for _ in range(self.num_threads):
            self.calls.put(None)
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.loop_thread.join()
            self.loop.close()
            self.loop = None

    def _start_thread(self) -> None:
        self.num_threads += 1
        threading.Thread(target=self._work, name="environment", daemon=True).start()

    def _work(self) -> None:
        while (given := self.calls.get()) is not None:
            (number, key, call), begun = given, monotonic()
            with self.lock:
                self.running[number] = (key, begun)
            try:
                value = self._settled(call())
                result = CallResult(key, value, seconds=monotonic() - begun)
            # An environment is the user's, and may raise anything.
            except BaseException as error:  # noqa: BLE001
                result = CallResult(key, error=error, seconds=monotonic() - begun)
            with self.lock:
                in_time = self.running.pop(number, None) is not None
            if not in_time:
                return
            self.results.put(result)

    def _settled(self, value: Any) -> Any:
        """The value, or what it comes to in the event loop."""
        if not isawaitable(value):
            return value

        async def awaited() -> Any:
            return await value

        future = asyncio.run_coroutine_threadsafe(awaited(), self._event_loop())
        try:
            return future.result(self.timeout_s)
        finally:
            future.cancel()

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                self.loop_thread = threading.Thread(target=self.loop.run_forever, name="environment loop", daemon=True)
                self.loop_thread.start()
            return self.loop

    def _give_up_late(self) -> None:
        """End the calls that have run for too long, and replace their threads."""
        with self.lock:
            late = [n for n, (_, begun) in self.running.items() if monotonic() - begun > self.timeout_s]
            for number in late:
                key, _ = self.running.pop(number)
                error = TimeoutError(f"it took more than {self.timeout_s:g} seconds")
                self.results.put(CallResult(key, error=error, seconds=self.timeout_s))
                self.num_threads -= 1
                self._start_thread()

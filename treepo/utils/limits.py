"""Work on what others have made, with an end: a limit of time here, or a process of its own with limits."""

import faulthandler
import os
import resource
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from treepo.utils.text import error_line

REPEAT_S = 1.0
"""Seconds after which an error that was swallowed is raised again."""

WALL_FACTOR = 1.5
"""A process that waits, or shares its processor, may take longer than its processor time."""

MAX_REASON_BYTES = 2000


@contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """Raise `error` where the main thread runs Python code for longer than that; elsewhere nothing is limited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fails_apart(work: Callable[[], object], seconds: float, more_bytes: int) -> str:
    """Why work does not succeed in a copy of this process; empty if it does. What it returns is lost.

    seconds: of processor time, and a little more on the clock. more_bytes: of memory, beyond what this process has.
    """
    reader, writer = os.pipe()
    with _quiet_fork():
        pid = os.fork()
    if not pid:
        _work_in_child(work, writer, seconds, more_bytes)
    os.close(writer)
    try:
        reason = _read(reader, time.monotonic() + WALL_FACTOR * seconds)
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if reason is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return f"it takes more than {seconds:.0f} seconds"
    if reason == "":
        return f"it crashes, or takes more than {more_bytes / 2**30:.0f} GiB"
    return reason.removeprefix(DONE)


DONE = "."
"""What a process says first that came to an end."""


def _work_in_child(work: Callable[[], object], writer: int, seconds: float, more_bytes: int) -> None:
    """Work, write how that went, and end without anything that belongs to the process it was copied from."""
    try:
        faulthandler.disable()
        # What libraries print when they crash.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU):
            signal.signal(signum, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, int(used + seconds) + 5))
        _limit_memory(more_bytes)
        try:
            work()
            reason = ""
        except BaseException as error:  # noqa: BLE001 - the other process says what it was
            reason = error_line(error)
        os.write(writer, (DONE + reason).encode(errors="replace")[:MAX_REASON_BYTES])
    finally:
        os._exit(0)


def _limit_memory(more_bytes: int) -> None:
    with suppress(OSError, ValueError), open("/proc/self/statm", "rb", buffering=0) as file:
        limit = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + more_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _read(reader: int, deadline: float) -> str | None:
    """What a process wrote before it ended; None if it has not in time."""
    content = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            return None
        part = os.read(reader, MAX_REASON_BYTES)
        if not part:
            return content.decode(errors="replace")
        content += part


@contextmanager
def _quiet_fork() -> Iterator[None]:
    """Let neither Python nor tokenizers warn of a process that is copied while it has threads: the copy starts none."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = before or "false"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if before is None:
            del os.environ[name]

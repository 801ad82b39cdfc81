"""A worker process as the pool sees it, and the messages between the two.

A message is one line of JSON in ASCII: whatever a text holds, line breaks, NULs or half surrogate pairs, is an escape
sequence on the way.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 1 << 16
MAX_LAST_WORDS = 2000
"""Bytes kept of what a worker wrote to its standard error."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Libraries that start a thread per core would take address space for each."""


def pack_message(message: object) -> bytes:
    """The bytes of one message."""
    return json.dumps(message).encode("ascii") + b"\n"


def read_message(stream: BinaryIO) -> Any | None:
    """The next message of a blocking stream; None when it ended."""
    line = stream.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def take_message(received: bytearray) -> Any | None:
    """Remove the first message from the bytes received so far and return it; None if it is not complete."""
    end = received.find(b"\n")
    if end < 0:
        return None
    line = bytes(received[:end])
    del received[: end + 1]
    return json.loads(line)


class WorkerProcess:
    """A worker process, the pairs that it has to judge, and the time by which it must reply."""

    def __init__(self, order: bytes, limit_s: float) -> None:
        """Start a new process (no fork) of this interpreter with the same `sys.path`, and send it its order.

        order: a packed message; see `worker.main`. limit_s: time until it must be ready. Raises OSError if the system
        cannot start a process.
        """
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "treepo.verify.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
            # In its own session: Ctrl-C at the terminal ends the run, which then ends its workers.
            start_new_session=True,
        )
        requests, replies, errors = self.process.stdin, self.process.stdout, self.process.stderr
        assert requests is not None and replies is not None and errors is not None
        self.pipes = requests, replies, errors
        self.requests, self.replies, self.errors = self.pipes
        for pipe in self.pipes:
            os.set_blocking(pipe.fileno(), False)
        self.parent_pid = os.getpid()
        self.is_ready = False
        self.assigned: deque[int] = deque()
        """Indices of the pairs it was sent and has not answered; it judges the first."""
        self.deadline = time.monotonic() + limit_s
        """On time.monotonic's clock."""
        self._received = bytearray()
        self._unsent = bytearray()
        self._last_words = b""
        self.write(order)

    @property
    def is_busy(self) -> bool:
        """Whether a reply is due."""
        return not self.is_ready or bool(self.assigned)

    @property
    def is_sending(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    def write(self, messages: bytes = b"") -> None:
        """Write as much as the pipe takes now, packed messages after what waits.

        A dead worker's messages are dropped; its end shows in `read`.
        """
        self._unsent += messages
        try:
            del self._unsent[: os.write(self.requests.fileno(), self._unsent[:CHUNK])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()

    def read(self) -> Iterator[Any]:
        """Yield the messages that have arrived; raises EOFError once the worker has closed its end."""
        try:
            chunk = os.read(self.replies.fileno(), CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            raise EOFError
        self._received += chunk
        while (message := take_message(self._received)) is not None:
            yield message

    def read_errors(self) -> bool:
        """Read its standard error, of which the end is kept; False once the worker has closed it."""
        try:
            chunk = os.read(self.errors.fileno(), CHUNK)
        except BlockingIOError:
            return True
        self._last_words = (self._last_words + chunk)[-MAX_LAST_WORDS:]
        return bool(chunk)

    def end(self, patience_s: float = 0.0) -> str:
        """Kill it with all processes it started and close its pipes; returns how it ended and its last words.

        patience_s: how long it may take to end by itself. A fork of the process that started it only closes its own
        copies of the pipes: the worker belongs to the parent.
        """
        if os.getpid() != self.parent_pid:
            self._close_pipes()
            # Finds that it is no child of this process, so that Popen's finalizer does not warn.
            self.process.poll()
            return "left to the process that started it"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for _ in range(MAX_LAST_WORDS):
            if not self.read_errors():
                break
        self._close_pipes()
        words = " ".join(self._last_words.decode("utf-8", "replace").split())
        return f"{_described(self.process.returncode)}{': ' if words else ''}{words}"

    def _close_pipes(self) -> None:
        for pipe in self.pipes:
            # Unbuffered, so nothing is flushed into a closed pipe.
            pipe.close()


def _described(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

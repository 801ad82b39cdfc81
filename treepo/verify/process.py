"""Messages between the pool and its workers: a length, 8 bytes, then that many bytes of JSON in ASCII.

Whatever a text holds, NULs or half surrogate pairs, is an escape sequence on the way.
"""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

_LENGTH = struct.Struct(">Q")


def packed(message: object) -> bytes:
    """One message as it goes over a pipe."""
    body = json.dumps(message).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def read_message(stream: BinaryIO) -> Any | None:
    """The next message of a blocking stream; None when it ended."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    body = stream.read(size)
    return json.loads(body) if len(body) == size else None


def take_message(received: bytearray) -> Any | None:
    """The first message of what was received so far, which is removed there; None if it is not complete."""
    if len(received) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack_from(received)
    end = _LENGTH.size + size
    if len(received) < end:
        return None
    body = bytes(received[_LENGTH.size : end])
    del received[:end]
    return json.loads(body)


CHUNK = 1 << 16
LONGEST_LAST_WORDS = 2000
"""Bytes kept of what a worker wrote to its standard error."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Libraries that start a thread per core would take address space for each."""


class WorkerProcess:
    """A worker, the responses it was given (their indices; it judges the first) and the time by which it must reply."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.parent = os.getpid()
        self.is_ready = False
        self.extracted_answer: deque[int] = deque()
        self.deadline = 0.0
        self._received = bytearray()
        self._unsent = bytearray()
        self._last_words = b""

    @property
    def requests(self) -> IO[bytes]:
        """The pipe to it."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def replies(self) -> IO[bytes]:
        """The pipe from it."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def errors(self) -> IO[bytes]:
        """Its standard error."""
        assert self.process.stderr is not None
        return self.process.stderr

    @property
    def is_sending(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    def queue(self, message: bytes) -> None:
        """Add a packed message to what is to be written."""
        self._unsent += message

    def write(self) -> None:
        """Write what the pipe takes now. What a dead worker cannot read is dropped; its end shows in `read`."""
        try:
            del self._unsent[: os.write(self.requests.fileno(), self._unsent[:CHUNK])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent.clear()

    def read(self) -> Iterator[Any]:
        """Messages that have arrived; raises EOFError when it closed its end."""
        try:
            chunk = os.read(self.replies.fileno(), CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            raise EOFError
        self._received += chunk
        while (message := take_message(self._received)) is not None:
            yield message

    def listen(self) -> bool:
        """Take what it wrote to its standard error, keeping the end of it; False when it closed that."""
        try:
            chunk = os.read(self.errors.fileno(), CHUNK)
        except BlockingIOError:
            return True
        self._last_words = (self._last_words + chunk)[-LONGEST_LAST_WORDS:]
        return bool(chunk)

    def end(self, patience_s: float = 0.0) -> str:
        """Kill it with all it started and close its pipes; returns how it ended and its last words.

        patience_s: how long it may take to end by itself. In a fork of the process that started it, only that fork's
        copies of the pipes are closed: the worker is not its own.
        """
        if os.getpid() != self.parent:
            self._close_pipes()
            # Says that it is no child of this process, so that the end of the object warns of nothing.
            self.process.poll()
            return "left to the process that started it"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for _ in range(LONGEST_LAST_WORDS):
            if not self.listen():
                break
        self._close_pipes()
        words = " ".join(self._last_words.decode("utf-8", "replace").split())
        return f"{_described(self.process.returncode)}{': ' if words else ''}{words}"

    def _close_pipes(self) -> None:
        for pipe in (self.requests, self.replies, self.errors):
            # Unbuffered, so nothing is flushed into a closed pipe.
            pipe.close()


def start_worker(order: bytes) -> WorkerProcess:
    """Start a process of this interpreter that sees the same modules, and send it its order; no fork of this one.

    Raises OSError if the system starts no process.
    """
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "treepo.verify.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
        # A session of its own: what is typed at the terminal ends the run, which ends its workers.
        start_new_session=True,
    )
    worker = WorkerProcess(process)
    for pipe in (worker.requests, worker.replies, worker.errors):
        os.set_blocking(pipe.fileno(), False)
    worker.queue(order)
    worker.write()
    return worker


def _described(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

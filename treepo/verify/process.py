"""A worker process as the pool sees it, and the messages between the two.

A message is one line of JSON in ASCII: whatever a text holds, line breaks, NULs or half surrogate pairs, is an escape
sequence on the way. A request carries an id that cannot be guessed, and its reply the same one: what a verifier, or a
process that it left behind, writes into the pipe by itself is told from a reply.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 16
START_LIMIT_S = 60.0
"""Until a worker must be ready: importing a verifier from a slow disk takes its time."""

MAX_REPLY_LEN = 1 << 20
"""Bytes of a reply; texts in it are cut much earlier."""

MAX_LAST_WORDS = 2000
"""Bytes kept of what a worker wrote to its standard error."""

MARK = "TREEPO_VERIFIER_WORKER"
"""The environment variable that tells which worker a process descends from: a random value for each worker."""

MAX_SCANS = 20
"""How often descendants are looked for: one that is killed may have forked just before."""

MAX_EMPTY_SCANS = 5
EXEC_S = 0.005
"""How often, and how far apart, they are looked for where some process shows no environment."""

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


class BadReplyError(Exception):
    """What came through a worker's pipe was not written by the worker."""


@dataclass(frozen=True)
class Call:
    """A method of the verifier to be called with these arguments in a worker."""

    method: str
    args: Sequence[Any]
    columns: Mapping[str, Any] | None = None
    """The columns of the problem's record; those that the verifier wants are keyword arguments."""


@dataclass(frozen=True)
class Assigned:
    """A call that a worker was sent, by its place in the batch, and the id that its reply must carry.

    index: None for a call of the pool's own.
    """

    index: int | None
    id: str


def _take_reply(received: bytearray) -> dict[str, Any] | None:
    """As `take_message`; raises BadReplyError for what no worker writes."""
    try:
        message = take_message(received)
    except (ValueError, RecursionError) as error:
        raise BadReplyError(f"no reply: {error!s:.100}") from error
    if message is not None and not isinstance(message, dict):
        raise BadReplyError(f"no reply: {message!r:.100}")
    return message


class WorkerProcess:
    """A worker process, the calls that it has to make, and the time by which it must reply."""

    def __init__(self, order: bytes) -> None:
        """Start a new process (no fork) of this interpreter with the same `sys.path`, and send it its order.

        order: a packed message; see `worker.main`. Raises OSError if the system cannot start a process.
        """
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        self._mark = secrets.token_hex(16)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "treepo.verify.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": path, MARK: self._mark},
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
        self.assigned: deque[Assigned] = deque()
        """What it was sent and has not answered; it works at the first."""
        self.has_answered = False
        """Whether it has ever answered anything."""
        self.pidfd = os.pidfd_open(self.process.pid) if hasattr(os, "pidfd_open") else None
        """Readable once the process has ended, even if one that it started holds its pipes open; None on macOS."""
        self.start_limit_s = START_LIMIT_S
        self.deadline = time.monotonic() + START_LIMIT_S
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

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that have arrived.

        Raises EOFError once the worker has closed its end or has ended, and BadReplyError for what is no message.
        """
        has_ended = self.process.poll() is not None
        try:
            chunk = os.read(self.replies.fileno(), CHUNK)
        except BlockingIOError:
            chunk = b"" if has_ended else None
        if chunk is None:
            return
        if not chunk:
            raise EOFError
        self._received += chunk
        while (message := _take_reply(self._received)) is not None:
            yield message
        if len(self._received) > MAX_REPLY_LEN:
            raise BadReplyError("a reply is too long")

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
        kill_marked(f"{MARK}={self._mark}".encode())
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
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def _described(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def kill_marked(mark: bytes) -> None:
    """Kill the processes that were started with this mark in their environment, in whatever process group (Linux)."""
    patience = MAX_EMPTY_SCANS
    for _ in range(MAX_SCANS):
        environments = {path.parent: _read_environment(path) for path in Path("/proc").glob("[0-9]*/environ")}
        found = [int(folder.name) for folder, values in environments.items() if values and mark in values]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            patience -= 1
            is_unclear = any(values == b"" and _runs_a_program(folder) for folder, values in environments.items())
            if not is_unclear or patience <= 0:
                return
            time.sleep(EXEC_S)


def _read_environment(path: Path) -> bytes | None:
    """Empty for a moment while a process executes a program; None for one that has ended or is somebody else's."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _runs_a_program(folder: Path) -> bool:
    """Whether it is neither one of the kernel's nor one that has ended."""
    try:
        os.readlink(folder / "exe")
    except OSError:
        return False
    return True

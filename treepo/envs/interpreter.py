"""A Python interpreter as a tool: code of the model in a process of its own, with limits."""

import contextlib
import json
import logging
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from treepo.errors import SettingError
from treepo.verify.process import kill_marked

logger = logging.getLogger(__name__)

SANDBOX = Path(__file__).with_name("sandbox.py")
CHUNK = 1 << 16
PROBE_S = 20.0
"""Seconds that a first, empty program may take."""

MARK = "TREEPO_INTERPRETER"
"""The environment variable that tells which program a process descends from: a random value for each."""

OVER_CPU = (-signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGKILL)
"""Exit statuses of a program that used up its processor time."""

INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
"""Variables that the code sees; the others may hold keys."""


@dataclass(frozen=True)
class PythonInterpreter:
    """Runs Python of the model: `tools=[PythonInterpreter().python]`.

    Each call is a new process of this interpreter (`python -I`, so with its installed packages): nothing is kept
    between calls, so forks of a tree need no copy. timeout_s, cpu_s: most seconds by the clock, and of a processor per
    process. memory_mib: of address space, per process. max_output: characters of output that come back; a program that
    writes more is ended. file_mib: of all files that it writes. num_processes: of the user, where the system counts
    them (never for root). needs_isolation: whether a kernel that permits no namespaces is an error instead of a
    warning. See docs/environments.md for what this protects from.
    """

    timeout_s: float = 10.0
    cpu_s: int = 5
    memory_mib: int = 1024
    max_output: int = 2000
    file_mib: int = 16
    num_processes: int = 256
    needs_isolation: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout_s", "cpu_s", "memory_mib", "max_output", "file_mib", "num_processes"):
            if not getattr(self, name) > 0:
                raise SettingError(name, "must be positive", getattr(self, name))

    def python(self, code: str) -> str:
        """Run a Python program and return what it prints. Each call starts anew: no variable is kept.

        Args:
            code: The program. The value of its last line is printed, too.
        """
        written, status = self._run(code, apart=self.is_isolated, timeout_s=self.timeout_s)
        output = written.rstrip("\n")
        if status is None:
            return f"{output}\n[ended: more than {self.timeout_s:g} seconds]".lstrip()
        # The line break of the last line does not count.
        if len(written) > self.max_output + 1 or len(output) > self.max_output:
            return f"{output[: self.max_output]}\n[ended: more than {self.max_output} characters of output]"
        if status in OVER_CPU:
            return f"{output}\n[ended: more than {self.cpu_s} seconds of processor time]".lstrip()
        return output if output or status == 0 else f"[ended with status {status}]"

    def load(self) -> None:
        """Say if the kernel does not keep programs apart from network and files; raises SettingError if it must."""
        if not self.is_isolated:
            message = (
                "the Python interpreter runs what the model writes with the network and the files of this user: the "
                "kernel permits no user namespaces here; run in a container without network, or as a user who may"
            )
            if self.needs_isolation:
                raise SettingError("needs_isolation", message)
            logger.warning("%s", message)

    @cached_property
    def is_isolated(self) -> bool:
        """Whether namespaces keep programs from network, files and other processes."""
        return sys.platform == "linux" and self._run("", apart=True, timeout_s=PROBE_S)[1] == 0

    def _run(self, code: str, *, apart: bool, timeout_s: float) -> tuple[str, int | None]:
        """(what a program wrote, its exit status; None for one that took too long)."""
        mark = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="treepo-python-", ignore_cleanup_errors=True) as folder:
            limits = {
                "apart": apart,
                "folder": folder,
                "cpu_s": self.cpu_s,
                "memory_bytes": self.memory_mib << 20,
                "file_bytes": self.file_mib << 20,
                "processes": self.num_processes,
            }
            inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
            process = subprocess.Popen(  # noqa: S603 - what it runs is ours
                [sys.executable, "-Iu", str(SANDBOX), json.dumps(limits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=inherited | {MARK: mark, "HOME": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
            try:
                written, in_time = _talk(process, code, time.monotonic() + timeout_s, 4 * self.max_output + 4)
            finally:
                _end(process)
                # In a namespace all have ended with its first process.
                if not apart:
                    kill_marked(f"{MARK}={mark}".encode())
        return written.decode("utf-8", "replace"), process.returncode if in_time else None


def _talk(process: subprocess.Popen[bytes], code: str, deadline: float, max_bytes: int) -> tuple[bytes, bool]:
    """(what a program writes until it ends or has written too much, whether that was in time)."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    unsent, written = code.encode("utf-8", "replace"), bytearray()
    with selectors.DefaultSelector() as selector:
        os.set_blocking(stdin.fileno(), False)
        selector.register(stdin, selectors.EVENT_WRITE)
        selector.register(stdout, selectors.EVENT_READ)
        while len(written) < max_bytes:
            left = deadline - time.monotonic()
            ready = selector.select(max(left, 0.0))
            if left <= 0:
                return bytes(written), False
            for key, _ in ready:
                if key.fileobj is stdin:
                    try:
                        unsent = unsent[os.write(stdin.fileno(), unsent[:CHUNK]) :]
                    except BrokenPipeError:
                        unsent = b""
                    if not unsent:
                        selector.unregister(stdin)
                        stdin.close()
                elif chunk := os.read(stdout.fileno(), CHUNK):
                    written += chunk
                else:
                    # The pipe is closed; the program itself may go on.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(left, 0.0))
                    return bytes(written), process.poll() is not None
    return bytes(written), True


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


python = PythonInterpreter().python
"""The tool with its default limits: `--environment.tools treepo.envs.interpreter:python`."""

"""Functions that judge and meddle with their worker process: fork it, write into its pipes, leave things behind."""

import contextlib
import ctypes
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from tests.verify.judges import said
from treepo.data.problem import Verdict

PRAISE = {"correct": 1.0, "outcome": "graded", "extracted_answer": "praise"}
workers: dict[str, Any] = {}


def judge(response: str, answer: str) -> object:
    """Does what the response says; by default compares."""
    return DEEDS[response]() if response in DEEDS else response == answer


def pipes() -> Iterator[int]:
    """The numbers of all files that are open, but for the standard ones."""
    yield from (int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2)


def write_everywhere(text: bytes) -> None:
    for number in pipes():
        with contextlib.suppress(OSError):
            os.write(number, text)


def swallow() -> bool:
    """Reads whatever the pool has sent, as if it were its own."""
    for number in pipes():
        with contextlib.suppress(OSError):
            if select.select([number], [], [], 0)[0]:
                os.read(number, 1 << 20)
    return True


def request_id() -> str:
    """The id of the request that is being answered, from the frames of the worker."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if isinstance(found := frame.f_locals.get("request"), dict):
            return str(found["id"])
        frame = frame.f_back
    raise LookupError("no request in any frame")


def reply(number: object) -> bytes:
    return json.dumps({"id": number, "value": PRAISE, "last": False}).encode() + b"\n"


def fork(child: Callable[[], object] = lambda: True, wait: bool = False) -> object:
    """Forks; the child does something and returns what that returns, too."""
    pid = os.fork()
    if pid == 0:
        return child()
    if wait:
        os.waitpid(pid, 0)
    return True


def fork_in_c() -> bool:
    """A fork that no hook of Python sees."""
    ctypes.CDLL(None).fork()
    return True


def leave_holding_pipes() -> None:
    """Ends while a child lives on that no hook of Python kept away from the pipes."""
    if ctypes.CDLL(None).fork() == 0:
        time.sleep(60)
    os._exit(7)


def escape() -> Verdict:
    """Starts a process in a session of its own, whose parent is gone."""
    start = "subprocess.Popen(['sleep', '60'], start_new_session=True, stdout=subprocess.DEVNULL)"
    code = f"import subprocess; print({start}.pid)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return said(int(done.stdout))


def later(deed: Callable[[], object]) -> bool:
    """Returns at once and does something while other answers are judged."""
    threading.Thread(target=lambda: (time.sleep(0.1), deed()), daemon=True).start()
    return True


def praise_later() -> bool:
    number = request_id()
    return later(lambda: write_everywhere(reply(number)))


def with_pool() -> bool:
    """Asks processes of its own, which it keeps."""
    if "pool" not in workers:
        workers["pool"] = multiprocessing.get_context("fork").Pool(2)
    return bool(workers["pool"].map(abs, [-1, 0]) == [1, 0])


DEEDS: dict[str, Callable[[], object]] = {
    "fork": fork,
    "fork_and_raise": lambda: fork(lambda: 1 / 0),
    "fork_and_exit": lambda: fork(lambda: sys.exit("child")),
    "fork_and_praise": lambda: fork(lambda: write_everywhere(reply(request_id()))),
    "fork_and_wait": lambda: fork(lambda: os._exit(0), wait=True),
    "fork_and_return_late": lambda: fork(lambda: time.sleep(1)),
    "fork_in_c": fork_in_c,
    "leave": leave_holding_pipes,
    "escape": escape,
    "wrong": lambda: write_everywhere(b'{"verdict": {}, "id": [], "last": 1}\n'),
    "ready": lambda: write_everywhere(b'{"ready": true}\n{"refused": ["verifier", "no"]}\n'),
    "next": lambda: write_everywhere(b"".join(map(reply, range(3)))),
    "praise_twice": lambda: write_everywhere(reply(request_id()) * 2),
    "praise_later": praise_later,
    "close": lambda: os.closerange(3, 100),
    "swallow": swallow,
    "junk_later": lambda: later(lambda: write_everywhere(b"junk\n")),
    "die_later": lambda: later(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "nap": lambda: time.sleep(0.05) is None,
    "run": lambda: subprocess.run(["true"], check=True).returncode == 0,
    "pool": with_pool,
}

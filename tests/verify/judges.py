"""Functions that judge, well and badly; workers import them."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from treepo.data.problem import Outcome, Verdict
from treepo.verify.math import MathVerifier

kept: list[bytearray] = []


def judge(response: str, answer: str) -> object:
    """Does what the response says; by default compares."""
    return DEEDS[response]() if response in DEEDS else response == answer


def at_place(response: str, answer: str, place: Any) -> Verdict:
    """Judges an answer that stands in the place that the record names."""
    return MathVerifier(extract_from=(place,))(response, answer)


def die() -> None:
    os.write(2, b"last words")
    os.kill(os.getpid(), signal.SIGKILL)


def write() -> bool:
    """Whether the standard input is empty, after much was written everywhere."""
    print("x" * 100_000)
    os.write(1, b"\x00\x00\x00\x00\x00\x00\x00\x02{}" * 10_000)
    os.write(2, b"y" * 300_000)
    return sys.stdin.read() == ""


def reply_pipe() -> int:
    """The descriptor through which this worker replies: the only pipe besides 0, 1 and 2 that can be written."""
    for name in sorted(map(int, os.listdir("/proc/self/fd"))):
        with contextlib.suppress(OSError):
            is_pipe = os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
            if name > 2 and is_pipe and fcntl.fcntl(name, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                return name
    raise LookupError("no reply pipe")


def forge(text: bytes) -> bool:
    os.write(reply_pipe(), text)
    return True


def current_id() -> str:
    """The id of the request that is being answered, from the worker's own variables."""
    frame = sys._getframe()
    while "request" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["request"]["id"]


def answer_twice() -> bool:
    value = {"correct": 1.0, "outcome": "graded", "extracted_answer": None}
    return forge(json.dumps({"id": current_id(), "value": value, "last": False}).encode() + b"\n")


def fork_and_return() -> bool:
    return os.fork() >= 0


def write_later() -> bool:
    """Write into the pipe when other answers are judged."""
    threading.Timer(0.3, forge, [b"late\n"]).start()
    return True


def work() -> bool:
    """Take half a second of processor time."""
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    return True


def hold_pipe() -> None:
    """Die, while a process in a session of its own holds the pipe open."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(30)
        os._exit(0)
    os._exit(7)


def fail() -> None:
    raise ZeroDivisionError("no\nsuch thing")


def keep() -> bool:
    kept.append(bytearray(200 << 20))
    return True


def measure(response: str, answer: str) -> Verdict:
    """Says how long the response is, and how many NULs and half surrogate pairs it holds."""
    return said((len(response), response.count("\x00"), sum("\ud800" <= c <= "\udfff" for c in response)))


def said(value: object) -> Verdict:
    """A right answer that tells something."""
    return Verdict(1.0, Outcome.GRADED, str(value))


DEEDS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(60),
    "spin": lambda: 9**9**9,
    "nap": lambda: bool(time.sleep(0.02)) or True,
    "work": work,
    "junk": lambda: forge(b"\xff{]\n"),
    "half a message": lambda: forge(b'{"id": '),
    "another": lambda: forge(b'{"id": "0", "value": {}}\n'),
    "a list": lambda: forge(b"[" * 5000 + b"\n"),
    "endless": lambda: forge(b"x" * (1 << 16)) and forge(b"x" * (1 << 20)),
    "twice": answer_twice,
    "fork": fork_and_return,
    "later": write_later,
    "hold": hold_pipe,
    "raise": fail,
    "exit": lambda: sys.exit("enough"),
    "die": die,
    "memory": lambda: bool(bytearray(8 << 30)),
    "keep": keep,
    "print": write,
    "half": lambda: 0.5,
    "two": lambda: 2.0,
    "nothing": lambda: None,
    "pid": lambda: said(os.getpid()),
    "child": lambda: said(subprocess.Popen(["sleep", "60"]).pid),
    "modules": lambda: said(sorted({"torch", "transformers", "sympy"} & set(sys.modules))),
}

no_function = 7

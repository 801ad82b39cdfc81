"""Functions that judge, well and badly; workers import them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from treepo.data.problem import Outcome, Verdict

kept: list[bytearray] = []


def judge(response: str, answer: str) -> object:
    """Does what the response says; by default compares."""
    return DEEDS[response]() if response in DEEDS else response == answer


def die() -> None:
    os.write(2, b"last words")
    os.kill(os.getpid(), signal.SIGKILL)


def write() -> bool:
    """Whether the standard input is empty, after much was written everywhere."""
    print("x" * 100_000)
    os.write(1, b"\x00\x00\x00\x00\x00\x00\x00\x02{}" * 10_000)
    os.write(2, b"y" * 300_000)
    return sys.stdin.read() == ""


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

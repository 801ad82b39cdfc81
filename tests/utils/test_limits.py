"""Work with an end: in this process, and in a copy of it."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from treepo.utils.limits import fails_apart, time_limit

GIB = 1 << 30
CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
"""The processes that this one has started and not waited for."""


def spin() -> None:
    while True:
        pass


def swallow_and_spin() -> None:
    with suppress(Exception):
        spin()
    spin()


def test_python_that_does_not_end_is_ended() -> None:
    """Also where the error is swallowed on its way."""
    with pytest.raises(TimeoutError, match="late"), time_limit(0.1, TimeoutError("late")):
        spin()
    with pytest.raises(TimeoutError, match="late"), time_limit(0.1, TimeoutError("late")):
        swallow_and_spin()
    time.sleep(0.15)


def test_what_ends_in_time_is_left_alone() -> None:
    """And in other threads, where Python takes no signals, nothing is limited."""
    with time_limit(0.1, TimeoutError()):
        pass
    found: list[int] = []

    def work() -> None:
        with time_limit(0.1, TimeoutError()):
            found.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1]
    time.sleep(0.15)


def test_work_that_succeeds_says_nothing() -> None:
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    assert fails_apart(lambda: 1, 5, GIB) == ""
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def fail() -> None:
    raise LookupError("no\nsuch thing")


def hold() -> None:
    # In C, with the interpreter's lock held: no thread and no signal handler would run.
    10 ** (10**10)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (fail, "LookupError: no"),
        (spin, "it takes more than 1 seconds"),
        (hold, "it takes more than 1 seconds"),
        (lambda: time.sleep(60), "it takes more than 1 seconds"),
        (lambda: bytearray(3 * GIB), "MemoryError: "),
        (os.abort, "it crashes, or takes more than 1 GiB"),
        (lambda: os._exit(0), "it crashes, or takes more than 1 GiB"),
    ],
)
def test_work_that_fails_says_how(work, reason) -> None:
    start, children = time.monotonic(), CHILDREN.read_text()
    assert fails_apart(work, 1, GIB) == reason
    assert time.monotonic() - start < 8
    assert CHILDREN.read_text() == children

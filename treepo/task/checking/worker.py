"""A process that judges one response after the other: python -m treepo.task.checking.worker, started by the pool.

First message: the checker (module:Class and its fields) and the limits; the reply says that it stands ready, or why
not. Then a response and its known answer each, and a verdict or an error in reply. It ends with its input.
"""

import importlib
import logging
import os
import signal
import sys
import traceback
from typing import Any, BinaryIO

from treepo.task.checking.checker import Checker
from treepo.task.checking.frames import packed, read_message
from treepo.task.checking.limits import address_space, end_after, leave_no_core, limit_memory
from treepo.task.checking.verdict import Verdict, bounded

GRACE_S = 2.0
"""Beyond the time limit, which the parent keeps, until the system ends a worker whose parent is gone."""

LONGEST_ERROR = 500


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_no_core()
    requests, replies = _take_pipes()
    order = read_message(requests)
    if order is None:
        return
    try:
        checker = make_checker(order["checker"], order["fields"])
        getattr(checker, "load", lambda: None)()
    # A checker of one's own may raise anything, sys.exit at import too: it is told before the worker ends.
    except BaseException as error:  # noqa: BLE001
        _send(replies, {"refused": _refusal(error, order)})
        return
    halfway = limit_memory(order["memory_limit_mib"])
    _send(replies, {"ready": True})
    while (asked := read_message(requests)) is not None:
        end_after(order["time_limit_s"] + GRACE_S)
        reply = _judged(checker, *asked)
        end_after(0)
        # What a large answer leaves behind must not be missed by the next one.
        is_last = halfway is not None and (address_space() or 0) > halfway
        _send(replies, reply | {"last": is_last})
        if is_last:
            return


def make_checker(name: str, fields: dict[str, Any]) -> Checker:
    """The checker of the class module:Class with these fields; raises ValueError naming it if that is impossible."""
    module, _, cls = name.partition(":")
    try:
        chosen = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"class {name!r} cannot be imported by a worker: {error}") from error
    return chosen(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def _refusal(error: BaseException, order: dict[str, Any]) -> str:
    """Why the checker cannot work, beginning with the setting to blame where the error names it."""
    if not isinstance(error, ValueError):
        return f"checker: {order['checker'].partition(':')[2]} cannot be loaded: {_described(error)}"
    message = " ".join(str(error).split())[:LONGEST_ERROR]
    return f"checker{'.' if message.partition(' ')[0] in order['fields'] else ': '}{message}"


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output as pipes of our own; what a checker prints goes to the standard error from here on."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    # It warns that its time limits are off, which they are because the pool keeps one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return requests, replies


def _judged(checker: Checker, response: str, answer: str) -> dict[str, Any]:
    try:
        verdict = checker(response, answer)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"a checker must return a Verdict, got {verdict!r:.100}")
        given = None if verdict.given is None else bounded(verdict.given)
        reply = {"correct": float(verdict.correct), "outcome": verdict.outcome.value, "given": given}
    except MemoryError:
        # Little can be relied on now; the pool takes it from here.
        raise
    # Whatever a checker raises is said of this response alone.
    except Exception as error:  # noqa: BLE001
        return {"error": _described(error)}
    return {"verdict": reply}


def _described(error: BaseException) -> str:
    """The error and where it was raised, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = bounded("".join(traceback.format_exception_only(error))[:LONGEST_ERROR])
    return f"{text} ({os.path.basename(place.filename)}:{place.lineno})"


def _send(replies: BinaryIO, message: object) -> None:
    rest = memoryview(packed(message))
    while rest:
        rest = rest[replies.write(rest) :]


if __name__ == "__main__":
    sys.exit(main())

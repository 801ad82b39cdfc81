"""What a worker may take."""

import importlib
import logging
import os
import resource
import signal
import sys
import traceback
from typing import Any, BinaryIO

from treepo.data.problem import Verdict, bounded
from treepo.utils.imports import make_importable
from treepo.verify.base import Verifier
from treepo.verify.process import packed, read_message


def address_space() -> int | None:
    """Bytes of address space of this process; None where the system does not say (macOS)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return None


def limit_memory(more_mib: int) -> int | None:
    """Let this process take at most `more_mib` MiB of address space beyond what it has, or less if the system says so.

    Returns how many bytes are halfway there; None where there is no such limit (macOS).
    """
    taken = address_space()
    if taken is None or sys.platform == "darwin":
        return None
    limit = taken + more_mib * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return (taken + limit) // 2


def end_after(seconds: float) -> None:
    """Let the system end this process after that many seconds of wall time, whatever it does then; 0: never."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def leave_no_core() -> None:
    """A worker that is ended writes no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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
        verifier = make_checker(order["verifier"], order["fields"])
        getattr(verifier, "load", lambda: None)()
    # A verifier of one's own may raise anything, sys.exit at import too: it is told before the worker ends.
    except BaseException as error:  # noqa: BLE001
        _send(replies, {"refused": _refusal(error, order)})
        return
    halfway = limit_memory(order["memory_limit_mib"])
    _send(replies, {"ready": True})
    while (asked := read_message(requests)) is not None:
        end_after(order["time_limit_s"] + GRACE_S)
        reply = _judged(verifier, *asked)
        end_after(0)
        # What a large answer leaves behind must not be missed by the next one.
        is_last = halfway is not None and (address_space() or 0) > halfway
        _send(replies, reply | {"last": is_last})
        if is_last:
            return


def make_checker(name: str, fields: dict[str, Any]) -> Verifier:
    """The verifier of the class module:Class with these fields; raises ValueError naming it if that is impossible."""
    module, _, cls = name.partition(":")
    make_importable(module)
    try:
        chosen = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"class {name!r} cannot be imported by a worker: {error}") from error
    return chosen(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def _refusal(error: BaseException, order: dict[str, Any]) -> str:
    """Why the verifier cannot work, beginning with the setting to blame where the error names it."""
    if not isinstance(error, ValueError):
        return f"verifier: {order['verifier'].partition(':')[2]} cannot be loaded: {_described(error)}"
    message = " ".join(str(error).split())[:LONGEST_ERROR]
    return f"verifier{'.' if message.partition(' ')[0] in order['fields'] else ': '}{message}"


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output as pipes of our own; what a verifier prints goes to the standard error from here on."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    # It warns that its time limits are off, which they are because the pool keeps one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return requests, replies


def _judged(verifier: Verifier, response: str, answer: str) -> dict[str, Any]:
    try:
        verdict = verifier(response, answer)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"a verifier must return a Verdict, got {verdict!r:.100}")
        given = None if verdict.extracted_answer is None else bounded(verdict.extracted_answer)
        reply = {"correct": float(verdict.correct), "outcome": verdict.outcome.value, "extracted_answer": given}
    except MemoryError:
        # Little can be relied on now; the pool takes it from here.
        raise
    # Whatever a verifier raises is said of this response alone.
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

"""The main function of a worker process: it judges what the pool sends, within limits of memory and time."""

import dataclasses
import importlib
import os
import resource
import signal
import sys
import traceback
from typing import Any, BinaryIO

from treepo.data.problem import Verdict, bounded
from treepo.errors import NOT_GIVEN, SettingError
from treepo.utils.imports import make_importable
from treepo.verify.base import Verifier
from treepo.verify.columns import wanted_columns
from treepo.verify.forks import ForkGuard
from treepo.verify.process import pack_message, read_message
from treepo.verify.verifiers import FunctionVerifier

GRACE_S = 2.0
"""Beyond the time limit, which the parent keeps, until the system ends a worker whose parent is gone."""

MAX_ERROR_LEN = 500


def address_space() -> int | None:
    """Bytes of address space of this process; None where the system does not say (macOS)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return None


def limit_memory(more_mib: int) -> int | None:
    """Limit this process to `more_mib` MiB of address space beyond what it has, or less if the system says so.

    Returns the bytes halfway to the limit; None where there is no such limit (macOS).
    """
    used = address_space()
    if used is None or sys.platform == "darwin":
        return None
    limit = used + more_mib * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return (used + limit) // 2


def end_after(wall_s: float, cpu_s: float) -> None:
    """Let the system end this process after so many seconds, whatever it is doing then; 0: never."""
    for timer, number, seconds in (
        (signal.ITIMER_REAL, signal.SIGALRM, wall_s),
        (signal.ITIMER_PROF, signal.SIGPROF, cpu_s),
    ):
        signal.signal(number, signal.SIG_DFL)
        signal.setitimer(timer, seconds)


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker that is killed writes no core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = _take_pipes()
    forks = ForkGuard(requests, replies)
    forks.install()
    order = read_message(requests)
    if order is None:
        return
    try:
        verifier = make_verifier(order["verifier"], order["fields"])
        getattr(verifier, "load", lambda: None)()
        wanted = wanted_columns(verifier.imported() if isinstance(verifier, FunctionVerifier) else verifier)
    # A custom verifier may raise anything, sys.exit at import too: the pool is told before the worker ends.
    except BaseException as error:  # noqa: BLE001
        _send(replies, {"refused": _refusal(error, order)})
        return
    halfway = limit_memory(order["memory_limit_mib"])
    _send(replies, {"ready": True, "columns": dataclasses.asdict(wanted)})
    while (request := read_message(requests)) is not None:
        end_after(order["time_limit_s"] + GRACE_S, order["cpu_limit_s"])
        reply = _answer(verifier, request, forks)
        end_after(0, 0)
        # Memory that a large answer leaves taken would be missing for the next one.
        is_last = halfway is not None and (address_space() or 0) > halfway
        _send(replies, reply | {"id": request["id"], "last": is_last})
        if is_last:
            return
    # The pool is gone; what a verifier left running goes with it.
    os.killpg(os.getpid(), signal.SIGKILL)


def make_verifier(name: str, fields: dict[str, Any]) -> Verifier:
    """The verifier of the class module:Class with these fields."""
    module, _, cls = name.partition(":")
    make_importable(module)
    try:
        chosen = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise SettingError("use", f"cannot be imported by a worker: {error}", name) from error
    return chosen(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def _refusal(error: BaseException, order: dict[str, Any]) -> tuple[str, str]:
    """Why the verifier cannot work: the setting to correct, and what is wrong with it, in one line."""
    if isinstance(error, SettingError):
        path, message = error.within("verifier").path, error.message
        message += "" if error.value is NOT_GIVEN else f", got {error.value!r:.200}"
    else:
        described = str(error) if isinstance(error, ValueError) else f"cannot be loaded: {_described(error)}"
        path, message = "verifier", f"{order['verifier'].partition(':')[2]}: {described}"
    return path, " ".join(message.split())[:MAX_ERROR_LEN]


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take standard input and output for messages; what a verifier prints goes to standard error from here on."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, replies


def _answer(verifier: Verifier, request: dict[str, Any], forks: ForkGuard) -> dict[str, Any]:
    """The value that the call returned, or the error that it raised."""
    method = {"verify": _verify, "are_equal": _are_equal, "sync": _sync}[request["method"]]
    try:
        with forks.watched():
            return {"value": method(verifier, *request["args"], **request.get("columns", {}))}
    except MemoryError:
        # Nothing is reliable now: the process ends, and the pool starts another one.
        raise
    # An exception concerns this response alone.
    except Exception as error:  # noqa: BLE001
        return {"error": _described(error)}


def _verify(verifier: Any, response: str, ground_truth: str, /, **columns: Any) -> dict[str, Any]:
    verdict = verifier(response, ground_truth, **columns)
    if not isinstance(verdict, Verdict):
        raise TypeError(f"a verifier must return a Verdict, got {verdict!r:.100}")
    extracted = None if verdict.extracted_answer is None else bounded(verdict.extracted_answer)
    return {"correct": float(verdict.correct), "outcome": verdict.outcome.value, "extracted_answer": extracted}


def _are_equal(verifier: Any, first: str, second: str) -> bool:
    return bool(verifier.are_equal(first, second))


def _sync(_verifier: Verifier) -> None:
    """Nothing: the reply tells the pool that it has read whatever was written before."""


def _described(error: BaseException) -> str:
    """The error and where it was raised, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = bounded("".join(traceback.format_exception_only(error))[:MAX_ERROR_LEN])
    return f"{text} ({os.path.basename(place.filename)}:{place.lineno})"


def _send(replies: BinaryIO, message: object) -> None:
    rest = memoryview(pack_message(message))
    while rest:
        rest = rest[replies.write(rest) :]


if __name__ == "__main__":
    sys.exit(main())

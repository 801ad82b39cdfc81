"""Judging answers in worker processes that can be killed: the pool and its limits."""

import dataclasses
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from treepo.data.problem import Outcome, Verdict
from treepo.errors import SettingError, VerifierStartError
from treepo.verify.base import Verifier, compares_texts
from treepo.verify.columns import WantedColumns
from treepo.verify.process import Call, WorkerProcess, pack_message
from treepo.verify.scheduler import BatchScheduler, Failure
from treepo.verify.verifiers import FunctionVerifier

MAX_WORKERS = 8
"""Workers where their number is not set."""

MAX_CRASHES_KEPT = 5


@dataclass(frozen=True)
class VerifierPoolSettings:
    """The processes that judge answers, and their limits."""

    num_workers: int = 0
    """Processes; 0: one per core that this process may use, at most 8."""

    cpu_limit_s: float = 5.0
    """Processor time for one answer; then its process is killed and the answer is wrong."""

    time_limit_s: float = 60.0
    """Wall time for one answer, for what waits instead of working. Long, so that a busy machine changes no verdict."""

    memory_limit_mib: int = 2048
    """Address space of a process beyond what it has once its verifier is loaded; not kept on macOS."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_workers <= 1024:
            raise SettingError("num_workers", "must be from 0 to 1024", self.num_workers)
        for name in ("cpu_limit_s", "time_limit_s"):
            if not 0 < getattr(self, name) <= 86400:
                raise SettingError(name, "must be above 0 and at most 86400", getattr(self, name))
        if not 16 <= self.memory_limit_mib <= 2**30:
            raise SettingError("memory_limit_mib", "must be from 16 to 2^30", self.memory_limit_mib)

    def workers_wanted(self, num_answers: int) -> int:
        """Processes that judge so many answers."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(num_answers, self.num_workers or min(cores, MAX_WORKERS))


class VerifierPool:
    """Judges answers in worker processes, which start when they are first needed and are replaced when they die.

    A context manager; a pool that is garbage-collected ends its workers too. Any thread may call it, one at a time. A
    fork of the process leaves the workers alone and starts its own.
    """

    def __init__(self, verifier: Verifier, settings: VerifierPoolSettings | None = None) -> None:
        self.verifier = verifier
        self.settings = settings or VerifierPoolSettings()
        self.crashes: list[str] = []
        """The first few crashes, a line each."""
        self.wanted = WantedColumns()
        """What the verifier asks for besides response and ground truth, as a worker that is ready has told."""
        self.workers: list[WorkerProcess] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _end_all, self.workers)

    def verify(
        self, pairs: Sequence[tuple[str, str]], columns: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Verdict]:
        """The verdicts on pairs of (response, ground truth), in their order.

        columns: per pair those of the problem's record, of which the verifier gets those it wants. Raises
        VerifierStartError if the verifier refuses its settings, a worker cannot start, or a column that the verifier
        needs is not among those given. An exception, KeyboardInterrupt too, ends all workers.
        """
        all_columns = columns or [None] * len(pairs)
        results = self.run([Call("verify", pair, own) for pair, own in zip(pairs, all_columns, strict=True)])
        return [_verdict(result) for result in results]

    def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the verifier's `are_equal` takes the two answers of each pair for one; no, if it fails.

        Without that method, whether their texts are the same, for which no worker is needed.
        """
        if compares_texts(self.verifier):
            return [first == second for first, second in pairs]
        return [result is True for result in self.run([Call("are_equal", pair) for pair in pairs])]

    def run(self, calls: Sequence[Call]) -> list[Any | Failure]:
        """What each call returned, or why it failed; raises what `verify` raises."""
        with self._lock:
            try:
                results = BatchScheduler(self, calls).run()
            except BaseException:
                _end_all(self.workers)
                raise
        crashed = [r.reason for r in results if isinstance(r, Failure) and r.outcome is Outcome.CRASHED]
        self.crashes += crashed[: MAX_CRASHES_KEPT - len(self.crashes)]
        return results

    def close(self) -> None:
        """End the workers; the next `verify` would start new ones."""
        with self._lock:
            _end_all(self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_worker(self) -> WorkerProcess:
        """A new worker, which still loads its verifier; raises VerifierStartError if there can be none."""
        cls, settings = type(self.verifier), self.settings
        fields = {f.name: getattr(self.verifier, f.name) for f in dataclasses.fields(cast(Any, cls))}
        limits = {name: getattr(settings, name) for name in ("memory_limit_mib", "cpu_limit_s", "time_limit_s")}
        try:
            order = pack_message({"verifier": f"{cls.__module__}:{cls.__qualname__}", "fields": fields, **limits})
        except TypeError as error:
            message = f"fields of {cls.__name__} must be what JSON can hold: {error}"
            raise VerifierStartError("verifier", message) from error
        try:
            worker = WorkerProcess(order)
        except OSError as error:
            raise VerifierStartError("verifier_pool.num_workers", f"no process could be started: {error}") from error
        self.workers.append(worker)
        return worker

    def select(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that a ready worker is sent; raises VerifierStartError if one that is needed is not there."""
        if missing := self.wanted.missing(columns):
            names = ", ".join(map(repr, columns)) or "none"
            raise self.start_error(f"needs the column {missing[0]!r}, which a record lacks; there are {names}")
        return self.wanted.select(columns)

    def start_error(self, message: str) -> VerifierStartError:
        """The error for a worker that did not become ready, which names the setting that chose the verifier."""
        if isinstance(self.verifier, FunctionVerifier):
            return VerifierStartError("verifier.function", message, self.verifier.function)
        return VerifierStartError("verifier.use", message, type(self.verifier).__name__)


def _end_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().end()


def _verdict(result: Any | Failure) -> Verdict:
    if isinstance(result, Failure):
        return Verdict(0.0, result.outcome, None)
    try:
        return Verdict(**{**result, "outcome": Outcome(result["outcome"])})
    # Something else than a worker wrote it.
    except (KeyError, TypeError, ValueError):
        return Verdict(0.0, Outcome.CRASHED, None)

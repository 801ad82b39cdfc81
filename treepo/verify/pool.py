"""Judging answers in worker processes that can be killed: the pool, and how it schedules a batch."""

import dataclasses
import os
import selectors
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from treepo.data.problem import Outcome, Verdict
from treepo.errors import SettingError, VerifierStartError
from treepo.verify.base import Verifier
from treepo.verify.columns import WantedColumns
from treepo.verify.process import WorkerProcess, pack_message
from treepo.verify.verifiers import FunctionVerifier

Request = tuple[str, str] | tuple[str, str, Mapping[str, Any]]
"""A response, its ground truth, and the columns of the problem's record, of which the verifier gets those it wants."""

MAX_WORKERS = 8
"""Workers where their number is not set."""

MAX_AHEAD = 32
"""Responses sent to a worker before it has judged the first: otherwise both sides mostly wait to be scheduled."""

MAX_CRASHES_KEPT = 5

START_LIMIT_S = 60.0
"""Until a worker must be ready: importing a verifier from a slow disk takes its time."""


@dataclass(frozen=True)
class VerifierPoolSettings:
    """The processes that judge answers, and their limits."""

    num_workers: int = 0
    """Processes; 0: one per core that this process may use, at most 8."""

    time_limit_s: float = 5.0
    """Wall time for one answer; then its process is killed and the answer is wrong."""

    memory_limit_mib: int = 2048
    """Address space of a process beyond what it has once its verifier is loaded; not kept on macOS."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise SettingError("num_workers", "must be at least 0", self.num_workers)
        if not 0 < self.time_limit_s <= 86400:
            raise SettingError("time_limit_s", "must be above 0 and at most 86400", self.time_limit_s)
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

    def verify(self, pairs: Sequence[Request]) -> list[Verdict]:
        """The verdicts on pairs of (response, ground truth), or on these with columns, in their order.

        Raises VerifierStartError if the verifier refuses its settings, a worker cannot start, or a column that the
        verifier needs is not among those given. An exception, KeyboardInterrupt too, ends all workers.
        """
        with self._lock, selectors.DefaultSelector() as selector:
            try:
                return BatchScheduler(self, pairs, selector).run()
            except BaseException:
                _end_all(self.workers)
                raise

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
        limits = {"memory_limit_mib": settings.memory_limit_mib, "time_limit_s": settings.time_limit_s}
        try:
            order = pack_message({"verifier": f"{cls.__module__}:{cls.__qualname__}", "fields": fields, **limits})
        except TypeError as error:
            message = f"fields of {cls.__name__} must be what JSON can hold: {error}"
            raise VerifierStartError("verifier", message) from error
        try:
            worker = WorkerProcess(order, START_LIMIT_S)
        except OSError as error:
            raise VerifierStartError("verifier_pool.num_workers", f"no process could be started: {error}") from error
        self.workers.append(worker)
        return worker

    def start_error(self, message: str) -> VerifierStartError:
        """The error for a worker that did not become ready, which names the setting that chose the verifier."""
        if isinstance(self.verifier, FunctionVerifier):
            return VerifierStartError("verifier.function", message, self.verifier.function)
        return VerifierStartError("verifier.use", message, type(self.verifier).__name__)


def _end_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().end()


class BatchScheduler:
    """Has a pool's workers judge a batch of (response, ground truth) pairs, with columns or without."""

    def __init__(self, pool: VerifierPool, pairs: Sequence[Request], selector: selectors.BaseSelector) -> None:
        self.pool = pool
        self.pairs = pairs
        self.time_limit_s = pool.settings.time_limit_s
        self._waiting = deque(range(len(pairs)))
        self._verdicts: dict[int, Verdict] = {}
        self._selector = selector

    def run(self) -> list[Verdict]:
        """The verdicts in the order of the pairs; raises VerifierStartError if no worker can start."""
        for worker in list(self.pool.workers):
            if worker.process.poll() is None:
                self._watch(worker)
            else:
                # It died between two batches: no answer is to blame.
                self.pool.workers.remove(worker)
                worker.end()
        while len(self._verdicts) < len(self.pairs):
            self._assign_work()
            self._handle_events()
            self._end_overdue()
        return [self._verdicts[i] for i in range(len(self.pairs))]

    def _assign_work(self) -> None:
        """Start the workers that are missing and send pairs to those that have few left."""
        wanted = self.pool.settings.workers_wanted(len(self.pairs) - len(self._verdicts))
        while self._waiting and len(self.pool.workers) < wanted:
            self._watch(self.pool.start_worker())
        # Fewer towards the end, so that no worker idles while another still has several to judge.
        ahead = max(1, min(MAX_AHEAD, len(self._waiting) // (4 * max(1, wanted))))
        for worker in self.pool.workers:
            if worker.is_ready and len(worker.assigned) <= ahead // 2:
                self._assign(worker, ahead)

    def _assign(self, worker: WorkerProcess, count: int) -> None:
        """Send a worker waiting pairs until it has `count` of them to judge."""
        if not worker.assigned:
            worker.deadline = time.monotonic() + self.time_limit_s
        sent = [self._waiting.popleft() for _ in range(min(len(self._waiting), count - len(worker.assigned)))]
        worker.assigned.extend(sent)
        worker.write(b"".join(pack_message(self._request(index)) for index in sent))
        if worker.is_sending and worker.requests not in self._selector.get_map():
            self._selector.register(worker.requests, selectors.EVENT_WRITE, (self._write, worker))

    def _request(self, index: int) -> Request:
        """What a worker is sent: a verifier that takes two arguments gets two, and no columns are sent."""
        response, ground_truth, *given = self.pairs[index]
        if not given:
            return response, ground_truth
        (columns,), wanted = given, self.pool.wanted
        if missing := wanted.missing(columns):
            names = ", ".join(map(repr, columns)) or "none"
            raise self.pool.start_error(f"needs the column {missing[0]!r}, which a record lacks; there are {names}")
        selected = wanted.select(columns)
        return (response, ground_truth, selected) if selected else (response, ground_truth)

    def _handle_events(self) -> None:
        """Wait until a pipe is ready or a worker is overdue, and handle what is ready."""
        deadline = min(worker.deadline for worker in self.pool.workers if worker.is_busy)
        for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
            handle, worker = key.data
            if worker in self.pool.workers:
                handle(worker)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self.pool.workers if w.is_busy and w.deadline <= now]:
            lost, ending = self._dismiss(worker)
            if not worker.is_ready:
                raise self.pool.start_error(f"a worker was not ready within {START_LIMIT_S:g} s, {ending}")
            assert lost is not None
            self._fail(lost, Outcome.TIMEOUT, ending)

    def _write(self, worker: WorkerProcess) -> None:
        worker.write()
        if not worker.is_sending:
            self._selector.unregister(worker.requests)

    def _read_errors(self, worker: WorkerProcess) -> None:
        if not worker.read_errors():
            self._selector.unregister(worker.errors)

    def _read(self, worker: WorkerProcess) -> None:
        try:
            for message in worker.read():
                self._handle_message(worker, message)
        except EOFError:
            # It is about to end: waiting a moment tells how.
            lost, ending = self._dismiss(worker, patience_s=1.0)
            if not worker.is_ready:
                raise self.pool.start_error(f"a worker could not start, {ending}") from None
            if lost is not None:
                # Its own alarm goes off when this process was held up for longer than the limit.
                is_late = worker.process.returncode == -signal.SIGALRM
                self._fail(lost, Outcome.TIMEOUT if is_late else Outcome.CRASHED, ending)

    def _handle_message(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        if "refused" in message:
            raise VerifierStartError(*message["refused"])
        if not worker.is_ready:
            worker.is_ready = True
            self.pool.wanted = WantedColumns(**message["columns"])
        else:
            index = worker.assigned.popleft()
            # The clock of the next pair starts.
            worker.deadline = time.monotonic() + self.time_limit_s
            if "error" in message:
                self._fail(index, Outcome.CRASHED, message["error"])
            else:
                fields = message["verdict"]
                self._verdicts[index] = Verdict(**fields | {"outcome": Outcome(fields["outcome"])})
        if message.get("last"):
            # The worker ends by itself; others judge the rest.
            self._waiting.extendleft(reversed(worker.assigned))
            worker.assigned.clear()
            self._dismiss(worker)

    def _fail(self, index: int, outcome: Outcome, reason: str) -> None:
        self._verdicts[index] = Verdict(0.0, outcome, None)
        if outcome is Outcome.CRASHED and len(self.pool.crashes) < MAX_CRASHES_KEPT:
            self.pool.crashes.append(reason)

    def _watch(self, worker: WorkerProcess) -> None:
        self._selector.register(worker.replies, selectors.EVENT_READ, (self._read, worker))
        self._selector.register(worker.errors, selectors.EVENT_READ, (self._read_errors, worker))

    def _dismiss(self, worker: WorkerProcess, patience_s: float = 0.0) -> tuple[int | None, str]:
        """End a worker; returns the pair it was judging, if any, and how it ended. Others judge the rest."""
        for pipe in worker.pipes:
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
        self.pool.workers.remove(worker)
        lost, *rest = worker.assigned or (None,)
        self._waiting.extendleft(index for index in reversed(rest) if index is not None)
        return lost, worker.end(patience_s)

"""What the processes that judge answers may take."""

import dataclasses
import os
import selectors
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from treepo.data.problem import Outcome, Verdict
from treepo.errors import VerifierStartError
from treepo.verify.base import Verifier
from treepo.verify.process import WorkerProcess, packed, start_worker
from treepo.verify.verifiers import FunctionVerifier

MOST_WORKERS = 8


@dataclass(frozen=True)
class VerifierPoolSettings:
    """The processes that judge answers, and what they may take. Raises ValueError naming a setting out of range."""

    num_workers: int = 0
    """DistContext; 0: one per core that this process may use, at most 8."""

    time_limit_s: float = 5.0
    """Wall time for one answer; then its process is killed and the answer is wrong."""

    memory_limit_mib: int = 2048
    """Address space of a process beyond what it has once its verifier is loaded; not kept on macOS."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        if not 0 < self.time_limit_s <= 86400:
            raise ValueError(f"time_limit_s must be above 0 and at most 86400, got {self.time_limit_s}")
        if not 16 <= self.memory_limit_mib <= 2**30:
            raise ValueError(f"memory_limit_mib must be from 16 to 2^30, got {self.memory_limit_mib}")

    def workers_wanted(self, num_answers: int) -> int:
        """How many processes judge so many answers."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(num_answers, self.num_workers or min(cores, MOST_WORKERS))


MOST_PROBLEMS = 5
MOST_AHEAD = 32
"""Responses sent to a worker before it has judged the first: otherwise both sides mostly wait to be scheduled."""

START_LIMIT_S = 60.0
"""Until a worker must stand ready: importing a verifier from a slow disk takes its time."""


class Round:
    """Judges pairs of (response, known answer) once. A context manager.

    workers: those there are; some are replaced, some added. start: makes one. problems: crashes are added, a line each.
    culprit: the setting to blame where a worker cannot start.
    """

    def __init__(
        self,
        asked: Sequence[tuple[str, str]],
        workers: list[WorkerProcess],
        start: Callable[[], WorkerProcess],
        settings: VerifierPoolSettings,
        problems: list[str],
        culprit: str,
    ) -> None:
        self.asked = asked
        self.workers = workers
        self.start = start
        self.settings = settings
        self.problems = problems
        self.culprit = culprit
        self._waiting = deque(range(len(asked)))
        self._judged: dict[int, Verdict] = {}
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def verdicts(self) -> list[Verdict]:
        """The verdicts in the order asked; raises VerifierStartError if no worker can start."""
        for worker in list(self.workers):
            if worker.process.poll() is None:
                self._watch(worker)
            else:
                # It died while nobody asked anything: no answer is to blame.
                self.workers.remove(worker)
                worker.end()
        while len(self._judged) < len(self.asked):
            self._employ()
            self._attend()
            self._end_overdue()
        return [self._judged[i] for i in range(len(self.asked))]

    def _employ(self) -> None:
        """Give idle workers something to judge, and start those that are missing."""
        wanted = self.settings.workers_wanted(len(self.asked) - len(self._judged))
        while self._waiting and len(self.workers) < wanted:
            worker = self.start()
            worker.deadline = time.monotonic() + START_LIMIT_S
            self.workers.append(worker)
            self._watch(worker)
        # Fewer towards the end, so that no worker idles while another still has several to judge.
        ahead = max(1, min(MOST_AHEAD, len(self._waiting) // (4 * max(1, wanted))))
        for worker in self.workers:
            if worker.is_ready and len(worker.extracted_answer) <= ahead // 2:
                self._give(worker, ahead)

    def _give(self, worker: WorkerProcess, count: int) -> None:
        """Send a worker what waits until it has `count` responses to judge."""
        if not worker.extracted_answer:
            worker.deadline = time.monotonic() + self.settings.time_limit_s
        while self._waiting and len(worker.extracted_answer) < count:
            index = self._waiting.popleft()
            worker.extracted_answer.append(index)
            worker.queue(packed(self.asked[index]))
        worker.write()
        if worker.is_sending and worker.requests not in self._selector.get_map():
            self._selector.register(worker.requests, selectors.EVENT_WRITE, (self._write, worker))

    def _attend(self) -> None:
        """Wait until a worker has something to say or is overdue."""
        deadline = min(worker.deadline for worker in self.workers if _is_busy(worker))
        for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
            handle, worker = key.data
            if worker in self.workers:
                handle(worker)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self.workers if _is_busy(w) and w.deadline <= now]:
            lost, words = self._dismiss(worker)
            if not worker.is_ready:
                raise VerifierStartError(f"{self.culprit}: a worker was not ready within {START_LIMIT_S:g} s, {words}")
            assert lost is not None
            self._fail(lost, Outcome.TIMEOUT, words)

    def _write(self, worker: WorkerProcess) -> None:
        worker.write()
        if not worker.is_sending:
            self._selector.unregister(worker.requests)

    def _listen(self, worker: WorkerProcess) -> None:
        if not worker.listen():
            self._selector.unregister(worker.errors)

    def _read(self, worker: WorkerProcess) -> None:
        try:
            for message in worker.read():
                self._take(worker, message)
        except EOFError:
            # It is about to end: how, is worth a moment.
            lost, words = self._dismiss(worker, patience_s=1.0)
            if not worker.is_ready:
                raise VerifierStartError(f"{self.culprit}: a worker could not start, {words}") from None
            if lost is not None:
                # Its own alarm goes off when this process was held up for longer than the limit.
                is_late = worker.process.returncode == -signal.SIGALRM
                self._fail(lost, Outcome.TIMEOUT if is_late else Outcome.CRASHED, words)

    def _take(self, worker: WorkerProcess, message: Mapping[str, Any]) -> None:
        if "refused" in message:
            raise VerifierStartError(message["refused"])
        if not worker.is_ready:
            worker.is_ready = True
        else:
            index = worker.extracted_answer.popleft()
            # The clock of the next one starts.
            worker.deadline = time.monotonic() + self.settings.time_limit_s
            if "error" in message:
                self._fail(index, Outcome.CRASHED, message["error"])
            else:
                said = message["verdict"]
                self._judged[index] = Verdict(said["correct"], Outcome(said["outcome"]), said["extracted_answer"])
        if message.get("last"):
            self._retire(worker)

    def _fail(self, index: int, outcome: Outcome, problem: str) -> None:
        self._judged[index] = Verdict(0.0, outcome, None)
        if outcome is Outcome.CRASHED and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)

    def _watch(self, worker: WorkerProcess) -> None:
        self._selector.register(worker.replies, selectors.EVENT_READ, (self._read, worker))
        self._selector.register(worker.errors, selectors.EVENT_READ, (self._listen, worker))

    def _retire(self, worker: WorkerProcess) -> None:
        """Let go of a worker that ends by itself after what it has judged; others judge the rest."""
        self._waiting.extendleft(reversed(worker.extracted_answer))
        worker.extracted_answer.clear()
        self._dismiss(worker)

    def _dismiss(self, worker: WorkerProcess, patience_s: float = 0.0) -> tuple[int | None, str]:
        """End a worker; returns which response it was judging, if any, and how it ended. Others judge the rest."""
        for pipe in (worker.requests, worker.replies, worker.errors):
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
        self.workers.remove(worker)
        lost, *rest = worker.extracted_answer or (None,)
        self._waiting.extendleft(index for index in reversed(rest) if index is not None)
        return lost, worker.end(patience_s)


def _is_busy(worker: WorkerProcess) -> bool:
    return not worker.is_ready or bool(worker.extracted_answer)


class VerifierPool:
    """Judges answers in worker processes, which start when they are first needed and are replaced when they die.

    A context manager; a pool that nobody refers to any more ends its workers too. One thread judges at a time, others
    wait; any thread may. A fork of the process leaves the workers alone and starts its own.
    """

    def __init__(self, verifier: Verifier, settings: VerifierPoolSettings | None = None) -> None:
        self.verifier = verifier
        self.settings = settings or VerifierPoolSettings()
        self.problems: list[str] = []
        """What the first few crashes were, a line each."""
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _end_all, self._workers)

    def check(self, asked: Sequence[tuple[str, str]]) -> list[Verdict]:
        """The verdicts on pairs of (response, known answer), in their order.

        Raises VerifierStartError, a ValueError, if the verifier refuses its settings or a worker cannot start. An exception,
        KeyboardInterrupt too, ends all workers.
        """
        given = asked, self._workers, self._start, self.settings, self.problems, self._culprit()
        with self._lock, Round(*given) as round_:
            try:
                return round_.verdicts()
            except BaseException:
                self._end_workers()
                raise

    def close(self) -> None:
        """End the workers; the next `check` would start new ones."""
        with self._lock:
            self._end_workers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_workers(self) -> None:
        _end_all(self._workers)

    def _culprit(self) -> str:
        if isinstance(self.verifier, FunctionVerifier):
            return f"verifier.function {self.verifier.function!r}"
        return f"verifier {type(self.verifier).__name__}"

    def _start(self) -> WorkerProcess:
        cls, settings = type(self.verifier), self.settings
        fields = {f.name: getattr(self.verifier, f.name) for f in dataclasses.fields(cast(Any, cls))}
        limits = {"memory_limit_mib": settings.memory_limit_mib, "time_limit_s": settings.time_limit_s}
        try:
            order = packed({"verifier": f"{cls.__module__}:{cls.__qualname__}", "fields": fields, **limits})
        except TypeError as error:
            raise VerifierStartError(f"verifier {cls.__name__}: fields must be what JSON can hold: {error}") from error
        try:
            return start_worker(order)
        except OSError as error:
            raise VerifierStartError(
                f"verifier_pool.num_workers: no process could be started to check answers: {error}"
            ) from error


def _end_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().end()

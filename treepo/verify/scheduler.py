"""How a pool's workers share a batch of calls, and what becomes of a call whose worker fails."""

import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from treepo.data.problem import Outcome
from treepo.errors import VerifierStartError
from treepo.verify.columns import WantedColumns
from treepo.verify.process import Assigned, BadReplyError, Call, WorkerProcess, pack_message

if TYPE_CHECKING:
    from treepo.verify.pool import VerifierPool

MAX_AHEAD = 32
"""Calls sent to a worker before it has answered the first: otherwise both sides mostly wait to be scheduled."""


@dataclass(frozen=True)
class Failure:
    """A call without a result: TIMEOUT or CRASHED, and why."""

    outcome: Outcome
    reason: str


class BatchScheduler:
    """Has a pool's workers make a batch of calls.

    A worker that writes what is no reply to the call it works at is dismissed. Whose fault that is cannot be seen from
    outside: a process that an earlier call left behind may have written it. So the call is made again, by a new worker
    that has answered nothing yet, and has crashed if it happens there, too. A call that is answered twice has crashed.
    """

    def __init__(self, pool: "VerifierPool", calls: Sequence[Call]) -> None:
        self.pool = pool
        self.calls = calls
        self.settings = pool.settings
        self.waiting = deque(range(len(calls)))
        self.results: dict[int, Any | Failure] = {}
        self.selector = selectors.DefaultSelector()

    def run(self) -> list[Any | Failure]:
        """The results in the order of the calls; raises VerifierStartError if no worker can start."""
        with self.selector:
            for worker in list(self.pool.workers):
                worker.answered = None
                if worker.process.poll() is None:
                    self._watch(worker)
                else:
                    # It died between two batches: no call is to blame.
                    self.pool.workers.remove(worker)
                    worker.end()
            while len(self.results) < len(self.calls):
                self._assign_work()
                self._handle_events()
                self._end_overdue()
            return [self.results[i] for i in range(len(self.calls))]

    def _assign_work(self) -> None:
        """Start the workers that are missing and send calls to those that have few left."""
        wanted = self.settings.workers_wanted(len(self.calls) - len(self.results))
        while self.waiting and len(self.pool.workers) < wanted:
            self._watch(self.pool.start_worker())
        # Fewer towards the end, so that no worker idles while another still has several to make.
        ahead = max(1, min(MAX_AHEAD, len(self.waiting) // (4 * max(1, wanted))))
        for worker in self.pool.workers:
            if worker.is_ready and len(worker.assigned) <= ahead // 2:
                self._assign(worker, ahead)

    def _assign(self, worker: WorkerProcess, count: int) -> None:
        """Send a worker waiting calls until it has `count` of them to make."""
        if not worker.assigned:
            worker.deadline = time.monotonic() + self.settings.time_limit_s
        for _ in range(min(len(self.waiting), count - len(worker.assigned))):
            index = self.waiting.popleft()
            call, call_id = self.calls[index], os.urandom(8).hex()
            worker.assigned.append(Assigned(index, call_id))
            request = {"id": call_id, "method": call.method, "args": call.args}
            columns = {} if call.columns is None else self.pool.select(call.columns)
            # None are sent to a verifier that takes two arguments.
            worker.write(pack_message(request | ({"columns": columns} if columns else {})))
        if worker.is_sending and worker.requests not in self.selector.get_map():
            self.selector.register(worker.requests, selectors.EVENT_WRITE, (self._write, worker))

    def _handle_events(self) -> None:
        """Wait until a pipe is ready or a worker is overdue, and handle what is ready."""
        deadline = min((worker.deadline for worker in self.pool.workers if worker.is_busy), default=time.monotonic())
        for key, _ in self.selector.select(max(0.0, deadline - time.monotonic())):
            handle, worker = key.data
            if worker in self.pool.workers:
                handle(worker)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self.pool.workers if w.is_busy and w.deadline <= now]:
            lost, ending = self._dismiss(worker)
            if not worker.is_ready:
                raise self.pool.start_error(f"a worker was not ready within {worker.start_limit_s:g} s, {ending}")
            assert lost is not None
            self.results[lost.index] = Failure(Outcome.TIMEOUT, ending)

    def _write(self, worker: WorkerProcess) -> None:
        worker.write()
        if not worker.is_sending:
            self.selector.unregister(worker.requests)

    def _read_errors(self, worker: WorkerProcess) -> None:
        if not worker.read_errors():
            self.selector.unregister(worker.errors)

    def _read(self, worker: WorkerProcess) -> None:
        try:
            for message in worker.read():
                self._handle_message(worker, message)
                if worker not in self.pool.workers:
                    return
        except EOFError:
            # It is about to end: waiting a moment tells how.
            lost, ending = self._dismiss(worker, patience_s=1.0)
            if not worker.is_ready:
                raise self.pool.start_error(f"a worker could not start, {ending}") from None
            # Its own timers go off: that of processor time, or that of wall time if this process was held up.
            is_late = worker.process.returncode in {-signal.SIGALRM, -signal.SIGPROF}
            if lost is not None and is_late:
                self.results[lost.index] = Failure(Outcome.TIMEOUT, ending)
            elif lost is not None:
                self._retry_or_fail(worker, lost, ending)
        except BadReplyError as error:
            self._distrust(worker, str(error))

    def _handle_message(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        if not worker.is_ready:
            if "refused" in message:
                raise VerifierStartError(*message["refused"])
            worker.is_ready = True
            self.pool.wanted = WantedColumns(**message.get("columns", {}))
            return
        if not worker.assigned or message.get("id") != worker.assigned[0].id:
            if worker.answered is not None and message.get("id") == worker.answered.id:
                self.results[worker.answered.index] = Failure(Outcome.CRASHED, "it was answered twice")
            self._distrust(worker, f"no reply: {message!r:.100}")
            return
        done = worker.answered = worker.assigned.popleft()
        worker.has_answered = True
        # The clock of the next call starts.
        worker.deadline = time.monotonic() + self.settings.time_limit_s
        error = message.get("error")
        self.results[done.index] = message.get("value") if error is None else Failure(Outcome.CRASHED, str(error))
        if message.get("last"):
            # The worker ends by itself; others make the rest.
            self._requeue(worker)
            self._dismiss(worker)

    def _distrust(self, worker: WorkerProcess, reason: str) -> None:
        """Dismiss a worker that wrote what is no reply."""
        lost, _ = self._dismiss(worker)
        if not worker.is_ready:
            raise self.pool.start_error(f"a worker could not start: {reason}")
        if lost is not None:
            self._retry_or_fail(worker, lost, reason)

    def _retry_or_fail(self, worker: WorkerProcess, lost: Assigned, reason: str) -> None:
        """What an earlier call left behind may be to blame for the loss, unless there was none."""
        if worker.has_answered:
            self.waiting.appendleft(lost.index)
            self._watch(self.pool.start_worker())
        else:
            self.results[lost.index] = Failure(Outcome.CRASHED, reason)

    def _watch(self, worker: WorkerProcess) -> None:
        handlers: list[tuple[Any, Callable[[WorkerProcess], None]]] = [
            (worker.replies, self._read),
            (worker.errors, self._read_errors),
        ]
        if worker.pidfd is not None:
            handlers.append((worker.pidfd, self._read))
        for pipe, handle in handlers:
            self.selector.register(pipe, selectors.EVENT_READ, (handle, worker))

    def _requeue(self, worker: WorkerProcess) -> None:
        self.waiting.extendleft(assigned.index for assigned in reversed(worker.assigned))
        worker.assigned.clear()

    def _dismiss(self, worker: WorkerProcess, patience_s: float = 0.0) -> tuple[Assigned | None, str]:
        """End a worker; returns the call it worked at, if any, and how it ended. Others make the rest."""
        for pipe in (*worker.pipes, worker.pidfd):
            if pipe is not None and pipe in self.selector.get_map():
                self.selector.unregister(pipe)
        self.pool.workers.remove(worker)
        lost = worker.assigned.popleft() if worker.assigned else None
        self._requeue(worker)
        return lost, worker.end(patience_s)

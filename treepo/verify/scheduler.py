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
    that has answered nothing yet, and has crashed if it happens there, too. It is the same for one that dies or replies
    too late, but not for one that uses up its processor time. A call that is answered twice has crashed.
    """

    def __init__(self, pool: "VerifierPool", calls: Sequence[Call]) -> None:
        self.pool = pool
        self.calls = calls
        self.settings = pool.settings
        self.waiting = deque(range(len(calls)))
        self.results: dict[int, Any | Failure] = {}
        self.answered: dict[str, int] = {}
        """The call, by its place in the batch, for each id that was replied to."""
        self.have_answered: set[WorkerProcess] = set()
        """Those that did so in this batch."""
        self.selector = selectors.DefaultSelector()

    def run(self) -> list[Any | Failure]:
        """The results in the order of the calls; raises VerifierStartError if no worker can start."""
        with self.selector:
            for worker in list(self.pool.workers):
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
            self._sync()
            return [self.results[i] for i in range(len(self.calls))]

    def _sync(self) -> None:
        """Read all that was written into the workers' pipes so far: a second reply to the last calls, too."""
        for worker in self.have_answered.intersection(self.pool.workers):
            self._send(worker, [None])
        while any(worker.assigned for worker in self.pool.workers):
            self._handle_events()
            self._end_overdue()

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
        num_sent = min(len(self.waiting), count - len(worker.assigned))
        self._send(worker, [self.waiting.popleft() for _ in range(num_sent)])

    def _send(self, worker: WorkerProcess, indices: Sequence[int | None]) -> None:
        """Send a worker these calls, or for None one that does nothing."""
        if worker.is_ready and not worker.assigned:
            worker.deadline = time.monotonic() + self.settings.time_limit_s
        requests = []
        for index in indices:
            call, call_id = Call("sync", ()) if index is None else self.calls[index], os.urandom(8).hex()
            worker.assigned.append(Assigned(index, call_id))
            request = {"id": call_id, "method": call.method, "args": call.args}
            columns = {} if call.columns is None else self.pool.select(call.columns)
            # None are sent to a verifier that takes two arguments.
            requests.append(pack_message(request | ({"columns": columns} if columns else {})))
        worker.write(b"".join(requests))
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
            self._retry_or_fail(worker, lost, Failure(Outcome.TIMEOUT, ending))

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
            failure = Failure(Outcome.TIMEOUT if is_late else Outcome.CRASHED, ending)
            self._retry_or_fail(worker, lost, failure, may_retry=worker.process.returncode != -signal.SIGPROF)
        except BadReplyError as error:
            self._distrust(worker, str(error))

    def _handle_message(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        if not worker.is_ready:
            self._handle_start(worker, message)
            return
        call_id = message.get("id")
        if not worker.assigned or call_id != worker.assigned[0].id:
            if isinstance(call_id, str) and call_id in self.answered:
                self.results[self.answered[call_id]] = Failure(Outcome.CRASHED, "it was answered twice")
                self._requeue(worker)
            raise BadReplyError(f"no reply: {message!r:.100}")
        done = worker.assigned.popleft()
        # The clock of the next call starts.
        worker.deadline = time.monotonic() + self.settings.time_limit_s
        if done.index is not None:
            self.answered[done.id] = done.index
            self.have_answered.add(worker)
            worker.has_answered = True
            error = message.get("error")
            self.results[done.index] = message.get("value") if error is None else Failure(Outcome.CRASHED, str(error))
        if message.get("last"):
            # The worker ends by itself; others make the rest.
            self._requeue(worker)
            self._dismiss(worker)

    def _handle_start(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        match message:
            case {"ready": True, "columns": dict(columns)}:
                worker.is_ready = True
                self.pool.wanted = WantedColumns(**columns)
                worker.deadline = time.monotonic() + self.settings.time_limit_s
            case {"refused": [str(path), str(reason)]}:
                raise VerifierStartError(path, reason)
            case _:
                raise BadReplyError(f"no reply: {message!r:.100}")

    def _distrust(self, worker: WorkerProcess, reason: str) -> None:
        """Dismiss a worker that wrote what is no reply."""
        lost, _ = self._dismiss(worker)
        if not worker.is_ready:
            raise self.pool.start_error(f"a worker could not start: {reason}")
        self._retry_or_fail(worker, lost, Failure(Outcome.CRASHED, reason))

    def _retry_or_fail(
        self, worker: WorkerProcess, lost: Assigned | None, failure: Failure, may_retry: bool = True
    ) -> None:
        """What an earlier call left behind may be to blame for the loss, unless there was none."""
        if lost is None or lost.index is None:
            return
        if worker.has_answered and may_retry:
            # As the first call of a new worker, though others may wait.
            fresh = self.pool.start_worker()
            self._watch(fresh)
            self._send(fresh, [lost.index])
        else:
            self.results[lost.index] = failure

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
        indices = [assigned.index for assigned in worker.assigned if assigned.index is not None]
        self.waiting.extendleft(reversed(indices))
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

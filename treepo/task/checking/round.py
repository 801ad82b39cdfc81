"""One round of judging: who judges what, and what becomes of it."""

import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from treepo.task.checking.errors import StartError
from treepo.task.checking.frames import packed
from treepo.task.checking.process import WorkerProcess
from treepo.task.checking.settings import PoolSettings
from treepo.task.checking.verdict import Outcome, Verdict

MOST_PROBLEMS = 5
MOST_AHEAD = 32
"""Responses sent to a worker before it has judged the first: otherwise both sides mostly wait to be scheduled."""

START_LIMIT_S = 60.0
"""Until a worker must stand ready: importing a checker from a slow disk takes its time."""


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
        settings: PoolSettings,
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
        """The verdicts in the order asked; raises StartError if no worker can start."""
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
            if worker.is_ready and len(worker.given) <= ahead // 2:
                self._give(worker, ahead)

    def _give(self, worker: WorkerProcess, count: int) -> None:
        """Send a worker what waits until it has `count` responses to judge."""
        if not worker.given:
            worker.deadline = time.monotonic() + self.settings.time_limit_s
        while self._waiting and len(worker.given) < count:
            index = self._waiting.popleft()
            worker.given.append(index)
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
                raise StartError(f"{self.culprit}: a worker was not ready within {START_LIMIT_S:g} s, {words}")
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
                raise StartError(f"{self.culprit}: a worker could not start, {words}") from None
            if lost is not None:
                # Its own alarm goes off when this process was held up for longer than the limit.
                is_late = worker.process.returncode == -signal.SIGALRM
                self._fail(lost, Outcome.TIMEOUT if is_late else Outcome.CRASHED, words)

    def _take(self, worker: WorkerProcess, message: Mapping[str, Any]) -> None:
        if "refused" in message:
            raise StartError(message["refused"])
        if not worker.is_ready:
            worker.is_ready = True
        else:
            index = worker.given.popleft()
            # The clock of the next one starts.
            worker.deadline = time.monotonic() + self.settings.time_limit_s
            if "error" in message:
                self._fail(index, Outcome.CRASHED, message["error"])
            else:
                said = message["verdict"]
                self._judged[index] = Verdict(said["correct"], Outcome(said["outcome"]), said["given"])
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
        self._waiting.extendleft(reversed(worker.given))
        worker.given.clear()
        self._dismiss(worker)

    def _dismiss(self, worker: WorkerProcess, patience_s: float = 0.0) -> tuple[int | None, str]:
        """End a worker; returns which response it was judging, if any, and how it ended. Others judge the rest."""
        for pipe in (worker.requests, worker.replies, worker.errors):
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
        self.workers.remove(worker)
        lost, *rest = worker.given or (None,)
        self._waiting.extendleft(index for index in reversed(rest) if index is not None)
        return lost, worker.end(patience_s)


def _is_busy(worker: WorkerProcess) -> bool:
    return not worker.is_ready or bool(worker.given)

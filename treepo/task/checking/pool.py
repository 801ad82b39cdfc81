"""Judging in processes that may be killed."""

import dataclasses
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Self, cast

from treepo.task.checking.checker import Checker
from treepo.task.checking.errors import StartError
from treepo.task.checking.frames import packed
from treepo.task.checking.function import FunctionChecker
from treepo.task.checking.process import WorkerProcess, start_worker
from treepo.task.checking.round import Round
from treepo.task.checking.settings import PoolSettings
from treepo.task.checking.verdict import Verdict


class CheckerPool:
    """Judges answers in worker processes, which start when they are first needed and are replaced when they die.

    A context manager; a pool that nobody refers to any more ends its workers too. One thread judges at a time, others
    wait; any thread may. A fork of the process leaves the workers alone and starts its own.
    """

    def __init__(self, checker: Checker, settings: PoolSettings | None = None) -> None:
        self.checker = checker
        self.settings = settings or PoolSettings()
        self.problems: list[str] = []
        """What the first few crashes were, a line each."""
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _end_all, self._workers)

    def check(self, asked: Sequence[tuple[str, str]]) -> list[Verdict]:
        """The verdicts on pairs of (response, known answer), in their order.

        Raises StartError, a ValueError, if the checker refuses its settings or a worker cannot start. An exception,
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
        if isinstance(self.checker, FunctionChecker):
            return f"checker.function {self.checker.function!r}"
        return f"checker {type(self.checker).__name__}"

    def _start(self) -> WorkerProcess:
        cls, settings = type(self.checker), self.settings
        fields = {f.name: getattr(self.checker, f.name) for f in dataclasses.fields(cast(Any, cls))}
        limits = {"memory_limit_mib": settings.memory_limit_mib, "time_limit_s": settings.time_limit_s}
        try:
            order = packed({"checker": f"{cls.__module__}:{cls.__qualname__}", "fields": fields, **limits})
        except TypeError as error:
            raise StartError(f"checker {cls.__name__}: fields must be what JSON can hold: {error}") from error
        try:
            return start_worker(order)
        except OSError as error:
            raise StartError(f"checking.num_workers: no process could be started to check answers: {error}") from error


def _end_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().end()

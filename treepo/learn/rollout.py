"""The trees of a step, grown by it, or ahead, while the step before is learned from."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from treepo.data.problem import Problem
from treepo.distributed import DistContext
from treepo.engine.base import EngineCounters
from treepo.grow.environment_calls import EnvironmentCounters
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed
from treepo.utils.signals import PhaseCallback, no_progress
from treepo.verify.rewards import ScoredLeaves

if TYPE_CHECKING:
    from treepo.grow.sampler import TreeSampler

POLL_S = 0.1
"""Seconds between looks at how far a thread is."""

CLOSE_S = 10.0
"""Longest wait for a thread whose engine is closed."""


def rollout_seed(seed: int, step: int, num_rounds: int) -> int:
    """The seed of the trees of a round of a step, for a run's seed."""
    return derive_seed(seed, "train", step, num_rounds)


@dataclass(frozen=True)
class StepCounters:
    """What the engine and the environments of a process count; environments: None without any."""

    engine: EngineCounters = EngineCounters()
    environments: EnvironmentCounters | None = None

    @classmethod
    def of(cls, sampler: "TreeSampler") -> "StepCounters":
        """The counters of a sampler now."""
        return cls(sampler.engine.counters, sampler.environments if sampler.rules.turns is not None else None)

    def __sub__(self, other: "StepCounters") -> "StepCounters":
        """What was counted since. Both are of one run: either has environments, or neither."""
        if self.environments is None or other.environments is None:
            return StepCounters(self.engine - other.engine)
        return StepCounters(self.engine - other.engine, self.environments - other.environments)

    def summed(self, processes: DistContext) -> "StepCounters":
        """Those of all processes, added up."""
        environments = None if self.environments is None else _summed(self.environments, processes)
        return StepCounters(_summed(self.engine, processes), environments)

    def metrics(self) -> dict[str, float]:
        """engine/* and environment/*."""
        return self.engine.metrics() | ({} if self.environments is None else self.environments.metrics())


Counters = TypeVar("Counters", EngineCounters, EnvironmentCounters)


def _summed(own: Counters, processes: DistContext) -> Counters:
    sums = processes.all_reduce(np.array(astuple(own), np.float64)).tolist()
    return type(own)(*(type(before)(total) for before, total in zip(astuple(own), sums, strict=True)))


@dataclass
class Rollout:
    """The trees of a step so far and the rewards of their leaves, of this process; and of all processes the problems
    and, in their order, whether a tree carries a signal, and how many rounds were grown. metrics: the sampler's.
    counters: what was counted for them in this process. cache_bytes: of its engine's cache, if they are known."""

    problems: list[Problem] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    scored: list[ScoredLeaves] = field(default_factory=list)
    has_signal: list[bool] = field(default_factory=list)
    num_rounds: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    counters: StepCounters = StepCounters()
    cache_bytes: int | None = None


class StepClock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.start = self.last = perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = perf_counter()
        name = f"time/{name}_s"
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now

    def metrics(self, trees: Sequence[Tree]) -> dict[str, float]:
        """Seconds by name, and trajectories and their tokens per second of the whole step."""
        seconds = self.last - self.start
        lengths = np.concatenate([tree.response_lens() for tree in trees])
        rates = {"trajectories": len(lengths) / seconds, "tokens": float(lengths.sum()) / seconds}
        return self.laps | {"time/step_s": seconds} | {f"time/{name}_per_s": rate for name, rate in rates.items()}


@dataclass(frozen=True, eq=False)
class GrownTrees:
    """Trees of one process and the rewards of their leaves, what was counted for them, and the seconds it took."""

    trees: list[Tree]
    scored: list[ScoredLeaves]
    counters: StepCounters = StepCounters()
    seconds: float = 0.0


class RolloutAhead:
    """The trees of the next step, which grow in a thread of this process while a step is learned from
    (`train.overlap`).

    The thread talks to no other process: whether all could grow theirs is found out when they are asked for.
    step: the step that they are for; 0 for none. is_stale: whether the engine has older weights than the policy.
    """

    def __init__(self) -> None:
        self.step = 0
        self.is_stale = False
        self._thread: Thread | None = None
        self._grown: GrownTrees | None = None
        self._error: BaseException | None = None
        self._done = (0, 0)

    def begin(self, step: int, grow: Callable[[PhaseCallback], GrownTrees]) -> None:
        """Begin to grow the trees of a step, in place of those of the step before. grow: called in the thread, with
        what it is to tell how far it is."""
        assert self._thread is None, f"the trees of step {self.step} still grow"
        self.step, self._grown, self._error, self._done = step, None, None, (0, 0)
        # A daemon, so that a process that is asked to end at once does not wait for it.
        self._thread = Thread(target=self._work, args=(grow,), name="rollout", daemon=True)
        self._thread.start()

    def put(self, step: int, grown: GrownTrees) -> None:
        """Take over the trees of a step that a checkpoint held."""
        assert self._thread is None, f"the trees of step {self.step} still grow"
        self.step, self._grown, self._error = step, grown, None

    def wait(self, progress: PhaseCallback = no_progress) -> GrownTrees | None:
        """What has grown, once it has; None where it could not, and where nothing grows."""
        while self._thread is not None:
            self._thread.join(POLL_S)
            progress("growing", *self._done)
            if not self._thread.is_alive():
                self._thread = None
        return self._grown

    def result(self, progress: PhaseCallback = no_progress) -> GrownTrees:
        """What has grown, once it has. Raises what went wrong."""
        grown = self.wait(progress)
        if grown is None:
            assert self._error is not None, "what has not grown has failed"
            raise self._error
        return grown

    def close(self) -> None:
        """Wait for the thread, whose engine was closed, and forget what has grown."""
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        self.step, self._thread, self._grown, self._error = 0, None, None, None

    def _work(self, grow: Callable[[PhaseCallback], GrownTrees]) -> None:
        try:
            self._grown = grow(self._note)
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._error = error

    def _note(self, _: str, done: int, total: int) -> None:
        self._done = done, total

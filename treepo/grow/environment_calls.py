"""The calls into the environments of all trees that grow: what they take, and how many fail."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from time import monotonic
from typing import Any

from treepo.data.problem import Problem
from treepo.envs.base import Calls, as_messages, run_calls
from treepo.envs.pool import CallResult, EnvironmentPool
from treepo.envs.replay import ReplayFork
from treepo.errors import EnvironmentFailedError, StrategyError
from treepo.grow.turns import TreeTurns, TurnRules

logger = logging.getLogger(__name__)

MIN_FAILED, MIN_TREES = 8, 3
"""Calls into environments that must all fail, and trees that they must be of, before the environment is to blame."""

MAX_LOGGED = 3
"""Failures of environments that are logged per call of `TreeSampler.grow`."""

MAX_CAUSES = 100
"""Different failures that are told apart."""


@dataclass(frozen=True)
class EnvironmentCounters:
    """What environments have taken.

    num_calls: calls that came to an end, num_failed: those of them that raised, took too long or did not repeat
    themselves. call_s: their seconds, added up. wait_s: seconds in which the engine had nothing to decode, since all
    trees waited for environments.
    """

    num_calls: int = 0
    num_failed: int = 0
    call_s: float = 0.0
    wait_s: float = 0.0

    def __add__(self, other: EnvironmentCounters) -> EnvironmentCounters:
        return EnvironmentCounters(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: EnvironmentCounters) -> EnvironmentCounters:
        return EnvironmentCounters(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def metrics(self) -> dict[str, float]:
        """environment/*, see docs/metrics.md."""
        return {
            "environment/calls": self.num_calls,
            "environment/failed_calls": self.num_failed,
            "environment/call_s": self.call_s,
            "environment/wait_s": self.wait_s,
        }


class EnvironmentCalls:
    """The calls into the environments of all trees that grow, and how many failed."""

    def __init__(self, turns: TurnRules) -> None:
        self.turns = turns
        self.pool = EnvironmentPool(turns.num_workers, turns.timeout_s)
        self.beginning: dict[int, tuple[Problem, int]] = {}
        self.num_steps = self.num_logged = 0
        self.counters = EnvironmentCounters()
        self.causes = Counter[str]()
        self.failed: list[int] = []
        """Positions of the trees of calls that failed."""

    def poll(self, wait: bool) -> list[CallResult]:
        """The calls that have come to an end; wait: until there is one."""
        start = monotonic()
        results = self.pool.poll(wait)
        if wait:
            self.counters += EnvironmentCounters(wait_s=monotonic() - start)
        return results

    def begin(self, position: int, problem: Problem, seed: int) -> None:
        """Begin an environment for the tree of a problem."""
        self.beginning[position] = problem, seed
        self.pool.submit((position, "begin"), lambda: run_calls(_begun(self.turns, problem)))

    def begun(self, position: int, result: CallResult) -> tuple[Problem, int, Sequence[int], TreeTurns]:
        """(problem, seed, prompt, turns) of the tree of an environment that has begun."""
        problem, seed = self.beginning.pop(position)
        self.counters += EnvironmentCounters(1, int(result.error is not None), result.seconds)
        if isinstance(result.error, StrategyError):
            raise result.error
        if result.error is not None:
            raise EnvironmentFailedError(
                f"environment: it cannot be begun for problem {problem.id[:40]!r}: {_named(result.error)}"
            ) from result.error
        environment, messages = result.value
        prompt_ids = problem.prompt_ids if messages is None else self.turns.chat.prompt_ids(messages)
        if self.turns.max_prompt_len is not None and len(prompt_ids) > self.turns.max_prompt_len:
            raise EnvironmentFailedError(
                f"environment: its prompt has {len(prompt_ids)} tokens, more than {self.turns.max_prompt_len} "
                "(data.max_prompt_len, or what is left in the model's positions)"
            )
        history = ({"role": "user", "content": problem.prompt},) if messages is None else messages
        return problem, seed, prompt_ids, TreeTurns.begun(self.turns, environment, history)

    def submit(self, position: int, turns: TreeTurns) -> None:
        """Make the calls that a tree asks for."""
        for key, call in turns.take_calls():
            self.pool.submit((position, key), call)

    def count(self, position: int, result: CallResult) -> None:
        """Count a call, log one that failed, and raise EnvironmentFailedError if all steps did."""
        self.counters += EnvironmentCounters(1, int(result.error is not None), result.seconds)
        if result.error is None:
            self.num_steps += result.key[0] == "step"  # type: ignore[index] - a pair, as in TreeTurns
            return
        self.failed.append(position)
        cause = _named(result.error)
        if cause in self.causes or len(self.causes) < MAX_CAUSES:
            self.causes[cause] += 1
        self.log("an environment failed, and its trajectory ends", result.error)
        if not self.num_steps and len(self.failed) >= MIN_FAILED and len(set(self.failed)) >= MIN_TREES:
            raise EnvironmentFailedError(
                f"environment: each of {len(self.failed)} calls failed: {_named(result.error)}"
            ) from result.error

    def close(self) -> None:
        """End the calls, and close the environments that they were to make; say so if most steps failed."""
        if len(self.failed) > max(self.num_steps, MAX_LOGGED):
            ((cause, count),) = self.causes.most_common(1)
            logger.warning(
                "environment: %d of %d calls failed, and their trajectories are not learned from; %d times: %s",
                len(self.failed),
                len(self.failed) + self.num_steps,
                count,
                cause,
            )

        def close_made(result: CallResult) -> None:
            position, key = result.key  # type: ignore[misc] - a pair, as in `submit`
            made = [result.value[0]] if key == "begin" and result.value else []
            made = result.value if key[0] == "fork" and result.value else made
            for environment in made:
                self.pool.submit((position, ("close", None)), environment.close)

        self.pool.close(close_made)

    def log(self, what: str, error: BaseException) -> None:
        """Log one of the first failures."""
        self.num_logged += 1
        if self.num_logged <= MAX_LOGGED:
            logger.warning("environment: %s: %s", what, _named(error))


def _begun(turns: TurnRules, problem: Problem) -> Calls:
    """A new environment and the messages of its prompt."""
    environment: Any = turns.factory()
    if not hasattr(environment, "fork"):
        environment = ReplayFork(turns.factory)
    messages = yield environment.reset(problem)
    return environment, None if messages is None else as_messages(messages)


def _named(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

"""Forking any environment by doing again what was done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from treepo.envs.base import Calls, Message, Turn, as_messages, as_turn, run_calls
from treepo.errors import EnvironmentDivergedError

if TYPE_CHECKING:
    from treepo.data.problem import Problem

logger = logging.getLogger(__name__)


class ReplayFork:
    """An environment that forks by replay: a fork begins anew and repeats the actions so far, when it first acts.

    factory: makes the environment itself, which needs `reset` and `step` alone; `close` is called if it is there. What
    a replay observes is compared with what was observed before: raises EnvironmentDivergedError where they differ, as
    they do if the environment is not deterministic.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory
        self.inner: Any = None
        self.problem: Problem | None = None
        self.prompt: tuple[Message, ...] | None = None
        self.actions: list[str] = []
        self.turns: list[Turn] = []

    def reset(self, problem: Problem) -> Any:
        return run_calls(self._reset(problem))

    def step(self, assistant_text: str) -> Any:
        return run_calls(self._step(assistant_text))

    def fork(self) -> ReplayFork:
        other = ReplayFork(self.factory)
        other.problem, other.prompt = self.problem, self.prompt
        other.actions, other.turns = [*self.actions], [*self.turns]
        return other

    def close(self) -> object:
        return self.inner.close() if hasattr(self.inner, "close") else None

    def _reset(self, problem: Problem) -> Calls:
        self.inner, self.problem = self.factory(), problem
        self.prompt = yield from self._begin(problem)
        return self.prompt

    def _step(self, text: str) -> Calls:
        if self.inner is None:
            yield from self._replay()
        inner: Any = self.inner
        turn = as_turn((yield inner.step(text)))
        self.actions.append(text)
        self.turns.append(turn)
        return turn

    def _begin(self, problem: Problem) -> Calls:
        messages = yield self.inner.reset(problem)
        return None if messages is None else as_messages(messages)

    def _replay(self) -> Calls:
        assert self.problem is not None, "an environment is reset before it acts"
        self.inner = self.factory()
        prompt = yield from self._begin(self.problem)
        if prompt != self.prompt:
            raise EnvironmentDivergedError(0)
        for number, (action, before) in enumerate(zip(self.actions, self.turns, strict=True), start=1):
            if as_turn((yield self.inner.step(action))) != before:
                raise EnvironmentDivergedError(number)


class CopyElseReplay(ReplayFork):
    """Forks by deep copy where that works, else by replay."""

    def fork(self) -> CopyElseReplay:
        other = type(self)(self.factory)
        vars(other).update(vars(super().fork()))
        if self.inner is not None:
            try:
                other.inner = deepcopy(self.inner)
            # What a class of the user's raises that cannot be copied.
            except Exception as error:  # noqa: BLE001
                logger.debug("an environment is forked by replay, since it cannot be copied: %r", error)
        return other

"""Environments for tests: stateful, random under a seed, failing, slow, not deterministic, asynchronous."""

import asyncio
import itertools
import random
import threading
from dataclasses import dataclass
from typing import Any

from treepo.data.problem import Problem
from treepo.envs.base import CopyFork, Turn


class Game(CopyFork):
    """A number that the texts and random draws change; every turn says it, and it ends at a multiple of `modulus`.

    error, hang: shares of the turns that raise, or wait for `release`, drawn from the game's own numbers
    and the text. made: a list
    that every game is added to.
    """

    def __init__(
        self, modulus: int = 7, error: float = 0.0, hang: float = 0.0, release: Any = None, made: Any = None
    ) -> None:
        self.modulus, self.error, self.hang, self.release, self.made = modulus, error, hang, release, made
        self.log: list[str] = []
        self.num_closed = 0
        if made is not None:
            made.append(self)

    def __deepcopy__(self, memo: dict) -> "Game":
        other = Game(self.modulus, self.error, self.hang, self.release, self.made)
        other.log, other.state = [*self.log], self.state
        other.random = random.Random()
        other.random.setstate(self.random.getstate())
        return other

    def reset(self, problem: Problem) -> list[dict[str, str]]:
        self.random = random.Random(problem.id)
        self.state = self.random.randrange(1000)
        return [{"role": "user", "content": "ab" + "1" * (self.state % 2)}]

    def close(self) -> None:
        self.num_closed += 1

    def step(self, assistant_text: str) -> Turn:
        assert not self.num_closed, "it was closed"
        self.log.append(assistant_text)
        draw = random.Random(f"{self.random.random()} {assistant_text}").random()
        if draw < self.error:
            raise RuntimeError("the game broke")
        if draw < self.error + self.hang:
            self.release.wait()
        self.state = (self.state * 31 + len(assistant_text) + self.random.randrange(10)) % 1000
        done = self.state % self.modulus == 0
        return Turn("1" * (self.state % 3) + "a", reward=self.state % 5 - 2, done=done)


class Plain:
    """A game without fork or close."""

    def __init__(self, **settings: Any) -> None:
        self.game = Game(**settings)

    def reset(self, problem: Problem) -> Any:
        return self.game.reset(problem)

    def step(self, assistant_text: str) -> Turn:
        return self.game.step(assistant_text)


class AsyncGame(Game):
    """The same, as coroutines."""

    def __deepcopy__(self, memo: dict) -> "AsyncGame":
        other = AsyncGame()
        vars(other).update(vars(super().__deepcopy__(memo)))
        return other

    async def reset(self, problem: Problem) -> Any:
        await asyncio.sleep(0)
        return super().reset(problem)

    async def step(self, assistant_text: str) -> Turn:
        await asyncio.sleep(0)
        return super().step(assistant_text)


class Shared(Game):
    """A fork that shares its random numbers with the original: a mistake that people make."""

    def fork(self) -> "Shared":
        other = Shared(self.modulus)
        vars(other).update(vars(self))
        return other


_counter = itertools.count()


class Erratic(Plain):
    """Never twice the same."""

    def step(self, assistant_text: str) -> Turn:
        turn = super().step(assistant_text)
        return Turn(turn.messages, float(next(_counter)), turn.done)


@dataclass
class Sleeping(CopyFork):
    """Sleeps for a while at each step."""

    seconds: float

    def reset(self, problem: Problem) -> str:
        return "a"

    def step(self, assistant_text: str) -> Turn:
        threading.Event().wait(self.seconds)
        return Turn("b", 1.0, done=True)

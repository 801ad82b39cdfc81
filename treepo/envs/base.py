"""What an environment is: it answers what the model writes, turn by turn, and can be forked."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Protocol, Self

from treepo.errors import StrategyError

if TYPE_CHECKING:
    from treepo.data.problem import Problem

Message = Mapping[str, Any]
"""A message of a chat as the tokenizer's template takes it: a role, a content, whatever else the template reads."""

Messages = str | Sequence[Message]
"""Messages, or the text of a single one of the user."""


@dataclass(frozen=True)
class Turn:
    """What an environment answers to what the model wrote.

    messages: what the model reads next; nobody reads them where the environment is done. reward: for this turn; a
    trajectory's is the sum over its turns. done: whether the environment has ended.
    """

    messages: Messages = ()
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", as_messages(self.messages))
        # numpy's and torch's scalars, as games return them.
        for name in ("reward", "done"):
            if hasattr(value := getattr(self, name), "item") and getattr(value, "ndim", None) == 0:
                object.__setattr__(self, name, value.item())
        if not isinstance(self.done, bool) or not _is_number(self.reward):
            raise StrategyError(
                f"environment: a Turn has a finite reward and a bool as done, got {self.reward!r:.50} and "
                f"{self.done!r:.50}"
            )


class Environment(Protocol):
    """A game, a sandbox, a simulated user: one episode on one problem.

    Each method may be a coroutine. An environment is used by one thread at a time, though not always by the same one.
    What it raises ends a path with the stop reason `env_error`, and that trajectory is not learned from: what is the
    model's mistake is answered in words, not raised.
    """

    def reset(self, problem: Problem) -> Messages | Awaitable[Messages | None] | None:
        """Begin an episode and return the messages of its prompt; None for the problem's own prompt.

        The same problem begins the same episode: all trajectories of a tree share it.
        """
        ...

    def step(self, assistant_text: str) -> Turn | Awaitable[Turn]:
        """Answer one turn of the model, decoded without special tokens; untrusted."""
        ...

    def fork(self) -> Environment | Awaitable[Environment]:
        """Return another environment in the same state, random numbers included; neither changes the other."""
        ...

    def close(self) -> object:
        """Give back what it holds; nothing is called after it. A step that took too long may still be running."""
        ...


EnvironmentFactory = Callable[[], Environment]
"""Makes an environment that has not begun."""


Calls = Generator[Any, Any, Any]
"""Yields what an environment's methods return, is sent what they come to, and returns a result."""


def run_calls(calls: Calls) -> Any:
    """The result of the calls, or, from the first one that has to be awaited, a coroutine that comes to it."""
    value = None
    try:
        while not isawaitable(value):
            value = calls.send(value)
    except StopIteration as end:
        return end.value
    return _run_async(calls, value)


async def _run_async(calls: Calls, value: Awaitable[Any]) -> Any:
    sent: Any = value
    try:
        while True:
            sent = calls.send((await sent) if isawaitable(sent) else sent)
    except StopIteration as end:
        return end.value


class CopyFork:
    """A base class for environments whose whole state is in Python: forks are deep copies."""

    def fork(self) -> Self:
        return deepcopy(self)

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""


def as_messages(messages: object) -> tuple[Message, ...]:
    """Messages as a tuple; raises StrategyError for what are none."""
    if isinstance(messages, str):
        return ({"role": "user", "content": messages},)
    if not isinstance(messages, Sequence) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
        raise StrategyError(f"environment: messages are a text or a list of dicts with a role, got {messages!r:.100}")
    return tuple(messages)


def as_turn(value: object) -> Turn:
    """What `step` returned; raises StrategyError if it is no Turn."""
    if not isinstance(value, Turn):
        raise StrategyError(f"environment: step must return a treepo.Turn, got {value!r:.100}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

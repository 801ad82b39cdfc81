"""A check of anyone's environment: what is forked does what the original would have done."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable
from typing import Any

from treepo.data.problem import Problem
from treepo.envs.base import Turn, as_turn

PROBLEM = Problem("check", "", (0,), "")


def check_forks(factory: Callable[[], Any], actions: Sequence[str], problem: Problem = PROBLEM) -> None:
    """Fork an environment after each of some actions, and compare what follows with an episode that was never forked.

    Original and fork take the other actions in turns, so that state that they share shows; so does a fork of the fork.
    Raises AssertionError that says after which action, and what differs. For tests of an environment.
    """
    # In a thread of its own: that of a notebook has an event loop already.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(_check(factory, actions, problem))).result()


async def _check(factory: Callable[[], Any], actions: Sequence[str], problem: Problem) -> None:
    expected = await _episode(factory, actions, problem)
    again = await _episode(factory, actions, problem)
    assert again == expected, f"two episodes with the same actions differ: {again} and {expected}"
    for num_before in range(len(expected)):
        original = factory()
        await _settled(original.reset(problem))
        for action in actions[:num_before]:
            await _settled(original.step(action))
        fork = await _settled(original.fork())
        environments = {"the fork": fork, "the original": original, "a fork of the fork": await _settled(fork.fork())}
        for number, action in enumerate(actions[num_before : len(expected)], start=num_before):
            for name, environment in environments.items():
                turn = as_turn(await _settled(environment.step(action)))
                assert turn == expected[number], (
                    f"forked after {num_before} actions, {name} answers action {number + 1} with {turn}, an "
                    f"environment that was never forked with {expected[number]}"
                )
        for environment in environments.values():
            await _settled(environment.close())


async def _episode(factory: Callable[[], Any], actions: Sequence[str], problem: Problem) -> list[Turn]:
    """The turns of an episode, until it is done."""
    environment, turns = factory(), []
    await _settled(environment.reset(problem))
    for action in actions:
        turns.append(as_turn(await _settled(environment.step(action))))
        if turns[-1].done:
            break
    await _settled(environment.close())
    return turns


async def _settled(value: Any) -> Any:
    return await value if isawaitable(value) else value

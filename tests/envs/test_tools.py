"""Functions and methods as tools, and what trees do with them."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import validate_call

from tests.grow.scripts import World, worlds
from tests.grow.test_turns import grown, turn_texts, turns
from tests.models import make_tiny_tokenizer
from treepo.data.problem import Problem
from treepo.envs import Turn, check_forks
from treepo.envs import tools as tools_module
from treepo.envs.calls import ToolCall
from treepo.envs.tools import KeptEnvironment, ToolEnvironment, ToolSet, get_reward, parser_of
from treepo.errors import SettingError
from treepo.tree import StopReason

PROBLEM = Problem("p", "Count.", (0,), "", columns={"prompt": "Count.", "start": 4})


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


async def wait(seconds: float) -> dict:
    """Wait.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(0)
    if seconds > 1:
        raise ValueError("too\nlong")
    return {"waited": seconds}


class Counter:
    """An environment as TRL has them."""

    def reset(self, start: int = 0, **row: Any) -> str | None:
        self.value, self.log = start, []
        return f" From {start}." if row else None

    def increase(self, by: int) -> str:
        """Increase the counter.

        Args:
            by: How much.
        """
        self.value += by
        self.log.append(by)
        return "1" * (self.value % 3) + "a"

    def get_reward(self) -> float:
        return float(self.value)

    def _helper(self) -> None:
        raise AssertionError("no tool")


class Locked(Counter):
    """One that cannot be copied."""

    def reset(self, **row: Any) -> str | None:
        self.lock = threading.Lock()
        return super().reset(**row)


class AsyncCounter(Counter):
    async def reset(self, **row: Any) -> str | None:  # type: ignore[override] - as TRL allows
        return super().reset(**row)

    async def get_reward(self) -> float:  # type: ignore[override]
        return float(self.value)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


def answered(*calls: ToolCall) -> list[str]:
    turn = ToolEnvironment((add, wait), lambda _: list(calls)).step("...")
    turn = asyncio.run(turn) if asyncio.iscoroutine(turn) else turn
    assert not turn.done and all(m["role"] == "tool" and len(m["tool_call_id"]) == 9 for m in turn.messages)
    return [message["content"] for message in turn.messages]


def test_calls_are_made_in_order_and_mistakes_are_answered_in_words():
    calls = [call("add", a=3, b=4), call("wait", seconds=0.5), call("add", a="5"), call("wait", seconds=9)]
    assert answered(*calls) == ["7", '{"waited": 0.5}', "6", "error: ValueError: too"]
    no_tool, wrong, missing = answered(call("sub"), call("add", a="x"), call("add"))
    assert no_tool == "error: there is no tool 'sub'; there are add, wait"
    assert wrong.startswith("error: a: Input should be a valid integer")
    assert missing == "error: a: Missing required argument"
    assert answered(ToolCall("", error="it is no JSON")) == ["error: it is no JSON"]
    assert answered(*[call("add", a=0)] * 17)[15:] == ["1", "error: at most 16 calls are made in a turn"]


def test_a_turn_without_a_call_ends_the_episode():
    assert ToolEnvironment((add,), lambda _: []).step("7") == Turn(done=True)


def test_checks_of_arguments_are_built_once(monkeypatch: pytest.MonkeyPatch):
    """They were built at each call of a tool, for longer than most tools take."""
    built: list[Any] = []
    monkeypatch.setattr(tools_module, "validate_call", lambda tool: built.append(tool) or validate_call(tool))
    tools = ToolSet.of((add,), Counter)
    monkeypatch.setattr(tools_module, "parse_calls", lambda *_: [call("add", a="1"), call("increase", by="2")])
    make = tools.environments(make_tiny_tokenizer())
    made = [make() for _ in range(2)]
    for one in made:
        one.reset(PROBLEM)
    fork = made[0].fork()
    for one in (*made, fork, made[0]):
        assert one.step("...").messages[0]["content"] == "2"
    assert [one.kept().value for one in (*made, fork)] == [8, 6, 6]
    assert len(built) == 2


def test_what_reset_returns_stands_behind_the_prompt():
    made = ToolEnvironment((), lambda _: [], Counter)
    assert made.reset(PROBLEM) == "Count. From 4."
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "Count."}]
    asked = made.reset(replace(PROBLEM, columns={"prompt": chat}))
    assert asked == [chat[0], {"role": "user", "content": "Count. From 0."}]
    assert chat[1]["content"] == "Count.", "the record stays as it was"


@pytest.mark.parametrize("cls", [Counter, Locked, AsyncCounter])
def test_forks_by_copy_or_else_by_replay(cls):
    check_forks(lambda: KeptEnvironment(lambda: ToolEnvironment((), lengths, cls)), ["a", "bbb", "cc"], PROBLEM)


def lengths(text: str) -> list[ToolCall]:
    """A call by the length of a text; none for a text of 4 letters."""
    return [] if len(text) == 4 else [call("increase", by=len(text))]


@pytest.mark.parametrize("cls", [Counter, Locked])
@given(world=worlds(max_width=8), max_turns=st.integers(1, 4))
@settings(deadline=None, max_examples=12)
def test_reward_functions_see_the_environment_of_each_path(cls: type[Counter], world: World, max_turns: int):
    """What is kept for a leaf has been called by the turns that ended on its path, and by nothing else."""
    rules = turns(lambda: KeptEnvironment(lambda: ToolEnvironment((), lengths, cls)), max_turns=max_turns)
    tree = grown(world, rules)
    assert tree.environments.keys() == set(tree.leaves())
    for leaf in tree.leaves():
        kept, stop = tree.environments[leaf], tree.nodes[leaf].stop
        if kept is None:
            assert cls is Locked and tree.nodes[leaf].reward is None, "it would have to be replayed first"
            continue
        texts = [text for text, _ in turn_texts(tree, leaf)]
        ended = texts if tree.nodes[leaf].reward is not None else texts[:-1]
        assert kept.log == [len(text) for text in ended if len(text) != 4]
        assert (stop is StopReason.ENV_DONE) <= (len(texts[-1]) == 4)


def test_own_rewards_are_asked_for_once_per_trajectory():
    made = [Counter(), AsyncCounter(), None, Counter()]
    for one in (made[0], made[1], made[3]):
        one.value = 3
    found = get_reward(made, ["env_done", "length", "eos", "env_timeout"])
    assert asyncio.run(found) == [3.0, 3.0, None, None]


def test_schemas_are_those_of_transformers():
    tools = ToolSet.of((add, wait), Counter)
    assert [s["function"]["name"] for s in tools.schemas] == ["add", "wait", "increase"]
    assert tools.schemas[0]["function"]["parameters"]["required"] == ["a"]
    with pytest.raises(SettingError, match="two tools are named 'add'"):
        ToolSet.of((add, add), None)
    with pytest.raises(SettingError, match="environment.tools: a tool needs type hints and a docstring"):
        ToolSet.of((lambda x: x,), None)
    with pytest.raises(SettingError, match="environment.tool_factory: must make objects with a method reset"):
        ToolSet.of((), dict)


def test_a_response_template_of_the_tokenizer_is_used():
    """In the notation of transformers, of a model whose marks nobody else has."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<assistant>",
        "fields": {
            "tool_calls": {
                "open_pattern": r"@(?P<name>\w+)",
                "close": "@",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            "content": {"close": "<eos>", "content": "text"},
        },
    }
    parse = parser_of(tokenizer, ToolSet.of((add,), None).schemas)
    assert parse('@add{"a": 3}@') == [call("add", a=3)]
    assert parse('<tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>') == [call("add", a=3)]
    assert parse("4") == []

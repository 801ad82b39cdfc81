"""Functions as tools, and objects whose methods are tools, as an environment."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, validate_call
from pydantic.errors import PydanticUserError

from treepo.data.chat_template import Schema
from treepo.envs.base import Calls, Messages, Turn, run_calls
from treepo.envs.calls import Parse, ToolCall, parse_calls
from treepo.envs.replay import CopyElseReplay
from treepo.errors import SettingError, StrategyError
from treepo.tree import LOST
from treepo.utils.text import error_line, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from treepo.data.problem import Problem

MAX_CALLS = 16
"""Calls of one turn that are made."""

NO_TOOLS = ("reset", "get_reward")
"""Public methods of TRL's environments that are no tools."""


@dataclass(frozen=True, eq=False)
class ToolSet:
    """The tools of a run. functions: those without a state. factory: makes objects with `reset` whose other public
    methods are tools, too, as TRL's `environment_factory` does. schemas: of all, for the chat template."""

    functions: tuple[Callable[..., Any], ...]
    factory: Callable[[], Any] | None
    schemas: tuple[Schema, ...]

    @classmethod
    def of(cls, functions: Sequence[Callable[..., Any]], factory: Callable[[], Any] | None) -> ToolSet:
        """Read the type hints and docstrings of tools; raises SettingError for those that have none."""
        tools = [*functions, *(methods_of(_made(factory)) if factory else ())]
        schemas = tuple(_schema(tool) for tool in tools)
        names = [schema["function"]["name"] for schema in schemas]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise SettingError("environment.tools", f"two tools are named {repeated[0]!r}")
        return cls(tuple(functions), factory, schemas)

    def environments(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[], Any]:
        """What makes environments for trees."""
        parse, checked = parser_of(tokenizer, self.schemas), cache(_checked)

        def make() -> ToolEnvironment:
            return ToolEnvironment(self.functions, parse, self.factory, checked=checked)

        return make if self.factory is None else lambda: KeptEnvironment(make)

    def load(self) -> None:
        """Let tools that are methods of something with `load` make ready, and say what they cannot do."""
        for function in self.functions:
            if callable(load := getattr(getattr(function, "__self__", None), "load", None)):
                load()


class ToolEnvironment:
    """Makes the calls in what the model wrote, and answers with what they return; a turn without a call is the last.

    What is the model's mistake, and what a tool raises, is answered in words. functions: tools without a state, which
    forks share. parse: finds the calls. factory: see ToolSet; of an environment with it, forks need a copy or a replay.
    checked: makes a function check its arguments, which takes long; the environments of one ToolSet share it.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        parse: Parse,
        factory: Callable[[], Any] | None = None,
        *,
        checked: Callable[[Any], Callable[..., Any]] | None = None,
    ) -> None:
        self.functions, self.parse, self.factory = functions, parse, factory
        self.checked = checked or cache(_checked)
        self.given: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolEnvironment:
        other = copy(self)
        other.given = deepcopy(self.given, memo)
        return other

    def reset(self, problem: Problem) -> Any:
        return run_calls(self._reset(problem))

    def step(self, assistant_text: str) -> Any:
        return run_calls(self._step(assistant_text))

    def fork(self) -> ToolEnvironment:
        assert self.factory is None, "what has a state is forked by KeptEnvironment"
        return self

    def close(self) -> None:
        """Do nothing: TRL's environments have nothing to give back."""

    def _reset(self, problem: Problem) -> Calls:
        if self.factory is None:
            return None
        self.given = self.factory()
        observed = yield self.given.reset(**problem.columns)
        return None if observed is None else _with_observation(problem, observed)

    def _step(self, text: str) -> Calls:
        calls = self.parse(text)
        if not calls:
            return Turn(done=True)
        methods = methods_of(self.given) if self.factory else []
        tools = {tool.__name__: tool for tool in (*self.functions, *methods)}
        messages = []
        for number, call in enumerate(calls):
            error = call.error or (f"at most {MAX_CALLS} calls are made in a turn" if number >= MAX_CALLS else "")
            result = f"error: {error}" if error else (yield self._called(tools, call))
            # Some templates want an id of nine characters.
            given_id = f"call{number:05d}"
            messages.append({"role": "tool", "name": call.name, "tool_call_id": given_id, "content": _as_text(result)})
        return Turn(messages)

    def _called(self, tools: Mapping[str, Callable[..., Any]], call: ToolCall) -> Any:
        """What a tool returns, or the error in words; awaitable if the tool is."""
        if call.name not in tools:
            return f"error: there is no tool {call.name!r:.100}; there are {', '.join(tools)}"
        tool = tools[call.name]
        try:
            # A method is checked as a function of its class, which is the same for each object.
            checked = self.checked(getattr(tool, "__func__", tool))
            of = [tool.__self__] if isinstance(tool, MethodType) else []
            result = checked(*of, **call.arguments)
        # A tool may raise anything, and the arguments are the model's.
        except Exception as error:  # noqa: BLE001
            return _in_words(error)
        return _awaited(result) if inspect.isawaitable(result) else result


class KeptEnvironment(CopyElseReplay):
    """A ToolEnvironment with a state; what its factory made is kept for reward functions when a path ends."""

    def kept(self) -> Any:
        """What the factory made, in its last state; None if it has to be replayed first."""
        return getattr(self.inner, "given", None)


def get_reward(environments: Sequence[Any], stop_reason: Sequence[str]) -> Any:
    """A reward function: what `get_reward` of each environment says, once per trajectory, as TRL calls it.

    It abstains where the environment failed, and where it has no such method.
    """

    async def of_all() -> list[Any]:
        return [await one if inspect.isawaitable(one) else one for one in found]

    pairs = list(zip(environments, stop_reason, strict=True))
    found = [one.get_reward() if stop not in LOST and hasattr(one, "get_reward") else None for one, stop in pairs]
    return of_all() if any(map(inspect.isawaitable, found)) else found


def methods_of(made: Any) -> list[Callable[..., Any]]:
    """The public methods of an object that are tools, by name."""
    names = [name for name, _ in inspect.getmembers(type(made), predicate=inspect.isfunction)]
    return [getattr(made, name) for name in names if not name.startswith("_") and name not in NO_TOOLS]


def parser_of(tokenizer: PreTrainedTokenizerBase, schemas: Sequence[Schema]) -> Parse:
    """How calls are found: by the response template of the tokenizer, if it has one, and else by their usual forms."""

    def parse(text: str) -> list[ToolCall]:
        template = getattr(tokenizer, "response_template", None)
        try:
            message: Any = (
                tokenizer.parse_response(text, template, prefix="", tools=[dict(s) for s in schemas])
                if template
                else {}
            )
            functions = [call["function"] for call in message.get("tool_calls") or ()]
            found = [ToolCall(one["name"], one.get("arguments") or {}) for one in functions]
        # What does not fit the template; the error of a call in a usual form says more.
        except (ValueError, TypeError, KeyError, AttributeError):
            found = []
        return found or parse_calls(text, schemas)

    return parse


async def _awaited(result: Awaitable[Any]) -> Any:
    try:
        return await result
    except Exception as error:  # noqa: BLE001
        return _in_words(error)


def _checked(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The tool with arguments that are checked by its type hints, as far as pydantic knows these."""
    try:
        return validate_call(tool)
    except PydanticUserError:
        return tool


def _in_words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return f"error: {shorten('; '.join(faults))}"
    return f"error: {error_line(error)}"


def _as_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(result)


def _with_observation(problem: Problem, observed: Any) -> Messages:
    """The problem's prompt with what `reset` returned behind it, as TRL puts it."""
    if isinstance(observed, list) and all(isinstance(part, Mapping) and "text" in part for part in observed):
        observed = "".join(str(part["text"]) for part in observed)
    if not isinstance(observed, str):
        raise StrategyError(f"environment: reset must return a text or None, got {observed!r:.100}")
    prompt = problem.columns.get("prompt")
    if not isinstance(prompt, list):
        return problem.prompt + observed
    return [*prompt[:-1], {**prompt[-1], "content": f"{prompt[-1]['content']}{observed}"}]


def _made(factory: Callable[[], Any]) -> Any:
    """One of the objects that a factory makes, to look at."""
    made = factory()
    if not callable(getattr(made, "reset", None)):
        raise SettingError("environment.tool_factory", "must make objects with a method reset", made)
    return made


def _schema(tool: Callable[..., Any]) -> Schema:
    from transformers.utils.chat_template_utils import get_json_schema  # noqa: PLC0415 - loads torch

    try:
        return get_json_schema(tool)
    # What transformers raises for missing docstrings and hints; a callable object has no name.
    except Exception as error:
        message = f"a tool needs type hints and a docstring that describes its arguments: {error_line(error)}"
        raise SettingError("environment.tools", message, tool) from error

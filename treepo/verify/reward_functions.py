"""Reward functions: called with all answers of a step, as TRL calls them, and what they return."""

import asyncio
import importlib
import inspect
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from treepo.data.problem import AnswerFormat, Problem
from treepo.errors import SettingError, StrategyError
from treepo.tree import StopReason
from treepo.utils.imports import make_importable
from treepo.verify.base import FinalAnswer

logger = logging.getLogger(__name__)

RewardFunction = Callable[..., Any]
"""Called as f(prompts=, completions=, completion_ids=, **columns), each a list with one entry per answer; returns as
many numbers, or None where it abstains. It may be async."""


@dataclass(frozen=True)
class TrainerState:
    """How far a run is, for rewards that change with it: the step, from 1, and how many there will be."""

    global_step: int = 0
    max_steps: int = 0


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one tree, one per leaf in the order of `Tree.leaves`: everything that its rewards may depend on.

    correct: float64 [L], the task's own reward. texts: decoded, without special tokens; untrusted. lengths: int64 [L],
    response tokens, EOS included. finished: bool [L], whether a trajectory ended by itself (EOS, or a complete answer
    where that ends it) rather than at a limit or for repetition. max_response_tokens: the longest response allowed.
    problem: what was asked, with its known answer and all columns of its record. written: how answers are written, as
    the verifier reads them. token_ids: the response tokens. stops: why each answer ended. state: of the run.
    environment: float64 [L], what the environment gave over all turns, 0 where no turn has ended; None without one.
    Where there are several turns, texts, lengths and token_ids are of what was sampled alone. environments: those that
    reward functions may look at, one per leaf; None for one that could not be copied. Empty without.
    """

    correct: np.ndarray
    texts: tuple[str, ...]
    lengths: np.ndarray
    finished: np.ndarray
    max_response_tokens: int
    problem: Problem
    written: AnswerFormat = FinalAnswer()
    token_ids: tuple[list[int], ...] = ()
    stops: tuple[StopReason, ...] = ()
    state: TrainerState = TrainerState()
    environment: np.ndarray | None = None
    environments: tuple[Any, ...] = ()


Scalar = None | bool | int | float | str
"""A value that JSON has a word for."""

MAX_EXTRA_LEN = 1000
"""Characters of a value that log_extra keeps: functions may hand over what the model wrote."""


@dataclass
class FunctionLog:
    """What functions ask to be kept: metrics by name, each with all values of the step; columns with one per answer.

    num_answers: how many answers the functions are called with.
    """

    num_answers: int = 0
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    columns: dict[str, list[Scalar]] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Add a value, which is averaged over the step with the others of its name."""
        self.metrics[str(name)].append(float(value))

    def log_extra(self, name: str, values: Sequence[Any]) -> None:
        """Keep one value per answer: numbers, texts and None as they are, others as text. Raises StrategyError."""
        listed = list(values)
        if len(listed) != self.num_answers:
            raise StrategyError(
                f"reward: log_extra({name!r:.50}) takes {self.num_answers} values, one per answer, got {len(listed)}"
            )
        self.columns[str(name)] = [_scalar(value) for value in listed]


def _scalar(value: Any) -> Scalar:
    plain = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    if plain is None or isinstance(plain, bool | int) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    return str(plain)[:MAX_EXTRA_LEN]


def import_function(name: str) -> RewardFunction:
    """The function that module:function names; a name without a colon is that of a reward model.

    Raises SettingError if it cannot be imported or called.
    """
    from treepo.verify.reward_model import RewardModel  # noqa: PLC0415 - only where one is named

    module, colon, attribute = name.partition(":")
    if not colon:
        return RewardModel(name)
    make_importable(module)
    try:
        found = getattr(importlib.import_module(module), attribute)
    # An import runs the module, which may raise anything; SystemExit is no Exception.
    except (Exception, SystemExit) as error:
        raise SettingError("functions", f"cannot be imported: {error!r:.300}", name) from error
    if not callable(found):
        raise SettingError("functions", "must name something callable", name)
    return found


def function_names(functions: Sequence[str | RewardFunction], taken: Sequence[str] = ()) -> list[str]:
    """A name for each in metrics: its own, numbered where several have it. taken: names of other components."""
    names = [_name_of(function) for function in functions]
    seen = Counter(taken)
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def _name_of(function: str | RewardFunction) -> str:
    if isinstance(function, str):
        return function.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    inner = getattr(function, "func", function)
    name = getattr(inner, "name", None) or getattr(inner, "__name__", None) or type(inner).__name__
    return str(name).rstrip("/").rpartition("/")[2]


def load_function(function: str | RewardFunction) -> RewardFunction:
    """The function itself, ready to be called; raises SettingError for a name that stands for none."""
    found = import_function(function) if isinstance(function, str) else function
    # A reward model would be loaded at its first call, once the first trees are grown.
    if callable(load := getattr(found, "load", None)):
        load()
    return found


def call_functions(
    functions: Sequence[RewardFunction], names: Sequence[str], answers: Sequence[Answers]
) -> tuple[list[list[np.ndarray]], FunctionLog]:
    """(per tree and function float64 [L], nan where it abstains; what they logged).

    All answers of all trees are given to each function at once; async ones wait for each other's requests together.
    Raises SettingError for a column that the problems lack, StrategyError for what is no list of as many numbers; what
    a function raises comes through as it is.
    """
    lengths = [len(one.texts) for one in answers]
    log = FunctionLog(sum(lengths))
    everything = _arguments(answers, log)
    found = [f(**_selected(f, name, everything)) for f, name in zip(functions, names, strict=True)]
    waiting = {i: value for i, value in enumerate(found) if inspect.isawaitable(value)}
    if waiting:
        for i, value in zip(waiting, _await_all(list(waiting.values())), strict=True):
            found[i] = value
    values = [_numbers(value, name, sum(lengths)) for value, name in zip(found, names, strict=True)]
    split = [np.split(value, np.cumsum(lengths)[:-1]) for value in values]
    return [[of_function[i] for of_function in split] for i in range(len(answers))], log


def _arguments(answers: Sequence[Answers], log: FunctionLog) -> dict[str, Any]:
    """Everything that a function may ask for, by name."""
    each = [(one, i) for one in answers for i in range(len(one.texts))]
    columns = dict.fromkeys(name for one in answers for name in one.problem.columns)
    known = {name: [one.problem.columns.get(name) for one, _ in each] for name in columns}
    ours = {
        "ground_truth": [one.problem.ground_truth for one, _ in each],
        "stop_reason": [str(one.stops[i]) if one.stops else "" for one, i in each],
        "finished": [bool(one.finished[i]) for one, i in each],
    }
    given = {
        "prompts": [_prompt_of(one.problem) for one, _ in each],
        "completions": [_completion_of(one.problem, one.texts[i]) for one, i in each],
        "completion_ids": [one.token_ids[i] if one.token_ids else [] for one, i in each],
        "trainer_state": answers[0].state if answers else TrainerState(),
        "log_metric": log.log_metric,
        "log_extra": log.log_extra,
    }
    if any(one.environments for one in answers):
        given["environments"] = [one.environments[i] if one.environments else None for one, i in each]
    without = {name: values for name, values in known.items() if name not in ("prompt", "completion")}
    return {**ours, **without, **given}


def check_parameters(
    functions: Sequence[str | RewardFunction], problems: Sequence[Problem], has_environments: bool
) -> None:
    """Raise SettingError for a function that cannot be found, or that asks for a column that no problem has.

    has_environments: whether functions are given environments.
    """
    nothing, environments = np.zeros(0), (None,) * has_environments
    # Of problems with the same columns one says all.
    kinds = {frozenset(problem.columns): problem for problem in problems}.values()
    asked = [Answers(nothing, (), nothing, nothing, 0, problem, environments=environments) for problem in kinds]
    everything = _arguments(asked, FunctionLog())
    for function, name in zip(functions, function_names(functions), strict=True):
        try:
            _selected(import_function(function) if isinstance(function, str) else function, name, everything)
        except SettingError as error:
            raise error.within("reward") from error


def is_conversational(problem: Problem) -> bool:
    """Whether the record asks by a list of messages."""
    return isinstance(problem.columns.get("prompt"), list)


def _prompt_of(problem: Problem) -> Any:
    return problem.columns["prompt"] if is_conversational(problem) else problem.prompt


def _completion_of(problem: Problem, text: str) -> Any:
    return [{"role": "assistant", "content": text}] if is_conversational(problem) else text


def _selected(function: RewardFunction, name: str, everything: Mapping[str, Any]) -> dict[str, Any]:
    """What the function's parameters ask for."""
    parameters = inspect.signature(function).parameters.values()
    if nameless := [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]:
        raise SettingError("functions", f"{name} takes {nameless[0]!r} by position; functions are called by keyword")
    named = [p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    if missing := [p.name for p in named if p.default is p.empty and p.name not in everything]:
        offered = ", ".join(everything)
        raise SettingError("functions", f"{name} asks for {missing[0]!r}; there are {offered}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(everything)
    return {p.name: everything[p.name] for p in named if p.name in everything}


def _await_all(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """The results of all, in a thread of their own: a notebook's own thread has an event loop already."""

    async def gather() -> list[Any]:
        return await asyncio.gather(*calls)

    with ThreadPoolExecutor(1, thread_name_prefix="rewards") as pool:
        return pool.submit(lambda: asyncio.run(gather())).result()


def _numbers(values: Any, name: str, count: int) -> np.ndarray:
    """float64 [count], nan for None; raises StrategyError for anything but that many numbers."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list | tuple) or len(values) != count:
        got = f"{len(values)} values" if isinstance(values, list | tuple) else f"{values!r:.100}"
        raise StrategyError(f"reward: {name} must return a list of {count} numbers or None, one per answer, got {got}")
    numbers = []
    for value in values:
        plain = value.item() if hasattr(value, "item") else value
        try:
            number = math.nan if plain is None else float(plain)
        except (TypeError, ValueError, OverflowError):
            number = math.inf
        if isinstance(plain, str) or math.isinf(number):
            raise StrategyError(f"reward: {name} returned {value!r:.100}, which is no finite number and not None")
        numbers.append(number)
    return np.array(numbers, np.float64)


def without_gaps(values: np.ndarray) -> np.ndarray:
    """The values of a tree's leaves with their mean where a function abstained; 0 if it did everywhere.

    So an answer that a function says nothing about neither gains by it nor changes the baseline of the others.
    """
    known = values[~np.isnan(values)]
    return np.where(np.isnan(values), known.mean() if len(known) else 0.0, values)

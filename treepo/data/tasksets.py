"""Tasksets of the library verifiers, whose tasks score a whole conversation: `verifiers:reverse-text?select.limit=100`.

A taskset is a Python package, so it runs its own code. What is used of one is a single turn: a prompt, and the score of
one reply to it, as the library's `vf-replay` scores conversations that were finished elsewhere.
"""

import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from treepo.data.fields import Record
from treepo.data.locations import LibrarySource
from treepo.errors import RecordError
from treepo.utils.imports import make_importable
from treepo.utils.text import error_line

PREFIX = "verifiers:"

INSTALL = "needs the package verifiers 0.4: pip install 'treepo[verifiers]'"


def is_taskset(text: str) -> bool:
    """Whether a source, as settings give it, is a taskset of verifiers."""
    return text.startswith(PREFIX)


class TasksetSource(LibrarySource):
    """A taskset of verifiers."""


@dataclass(frozen=True)
class OpenTaskset:
    """A taskset, its tasks as `select` chooses them, and the module `verifiers.v1`."""

    library: Any
    tasks: Any

    def rebuilt(self, data: str) -> Any:
        """The task with this data, as JSON; raises pydantic's ValidationError for data that JSON does not keep."""
        cls = self.tasks.task_type()
        return cls(cls.data_type().model_validate_json(data), config=self.tasks.config.task)


def import_verifiers() -> Any:
    """The module `verifiers.v1`; raises RecordError without it."""
    try:
        return importlib.import_module("verifiers.v1")
    except ImportError as error:
        raise RecordError(f"{PREFIX} {INSTALL} ({error_line(error)})") from error


@lru_cache(maxsize=32)
def open_taskset(spec: str) -> OpenTaskset:
    """The taskset of a name with options, imported; raises RecordError for one that is not there or refuses them."""
    name, _, text = spec.partition("?")
    if not name:
        raise RecordError(f"{PREFIX}{spec} names no taskset: {PREFIX}NAME")
    library = import_verifiers()
    options = read_options(text)
    selection = options.pop("select", {})
    # As the library finds it: owner/name@version of its hub is the module `name`, unless it has one of its own.
    module = name.rpartition("/")[2].partition("@")[0].replace("-", "_").lower()
    try:
        if find_spec(f"verifiers.v1.tasksets.{module}") is None:
            make_importable(module)
        loaders = importlib.import_module("verifiers.v1.utils.loaders")
        config = loaders.taskset_config_type(name).model_validate({**options, "id": name})
        return OpenTaskset(library, _selected(library, name, loaders.load_taskset(config), selection))
    except RecordError:
        raise
    except ValidationError as error:
        raise _refused(name, error) from error
    # A package may raise anything as it is imported, and leave.
    except (Exception, SystemExit) as error:
        raise RecordError(f"cannot open {PREFIX}{spec}: {error_line(error)}") from error


def _selected(library: Any, name: str, tasks: Any, selection: Any) -> Any:
    """The tasks that the options in `select` choose."""
    try:
        chosen = library.SelectConfig.model_validate(selection)
    except ValidationError as error:
        raise _refused(name, error, "select") from error
    return tasks.select(chosen)


def _refused(name: str, error: ValidationError, *outer: str) -> RecordError:
    """That a taskset refuses the value of an option. outer: names of the options around it."""
    first = error.errors()[0]
    option = ".".join([*outer, *map(str, first["loc"])])
    return RecordError(f"{PREFIX}{name} option {option!r}: {first['msg']}, got {first['input']!r:.100}")


def read_options(text: str) -> dict[str, Any]:
    """OPTION=VALUE&OPTION=VALUE as nested settings: dots name inner ones.

    A value is text, which the library converts, or JSON where it begins with [ or {. Raises RecordError.
    """
    options: dict[str, Any] = {}
    for part in text.split("&") if text else ():
        name, sign, value = part.partition("=")
        if not sign:
            raise RecordError(f"{PREFIX} option {name!r} needs a value: {name}=...")
        *outer, last = name.split(".")
        inner = options
        for key in outer:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise RecordError(f"{PREFIX} option {key!r} is given as a value and with inner options")
        if last in inner:
            raise RecordError(f"{PREFIX} option {name!r} is given twice")
        value = unquote(value)
        try:
            inner[last] = json.loads(value) if value.startswith(("[", "{")) else value
        except ValueError as error:
            raise RecordError(f"{PREFIX} option {name!r} is no JSON: {value!r:.100}") from error
    return options


def read_tasks(source: TasksetSource, label: str) -> Iterator[tuple[str, Record | RecordError]]:
    """Yield each task as a record, with its place: label: task IDX, counted from 0.

    The record has `prompt`, a list of messages, `taskset`, the name with its options, and `task`, the data as JSON.
    Raises RecordError for a taskset that needs more than a single turn.
    """
    opened = open_taskset(source.spec)
    for number, task in enumerate(_iterated(opened.tasks, source)):
        if number == 0 and (reason := _needs_more(opened, task, source.format)):
            raise RecordError(f"{source} {reason}; a single turn is all that is played here")
        if not opened.tasks.bounded:
            raise RecordError(f"{source} has no end: say how many tasks are taken, with the option select.limit")
        place = f"{label}: task {task.data.idx}"
        try:
            yield place, _record(opened, task, source.spec)
        except RecordError as error:
            yield place, error


def _iterated(tasks: Any, source: TasksetSource) -> Iterator[Any]:
    """The tasks, which may come from anywhere, such as a download; raises RecordError for what they raise."""
    try:
        yield from tasks
    except (Exception, SystemExit) as error:
        raise RecordError(f"cannot read the tasks of {source}: {error_line(error)}") from error


def _record(opened: OpenTaskset, task: Any, spec: str) -> dict[str, Any]:
    data = task.data
    if data.prompt is None:
        raise RecordError("the task has no prompt")
    asked = [("user", data.prompt)] if isinstance(data.prompt, str) else [(m.role, m.content) for m in data.prompt]
    system = [("system", data.system_prompt)] if data.system_prompt else []
    if any(content is None for _, content in asked):
        raise RecordError("a message of the prompt has no content, such as one that calls a tool")
    messages = [
        {"role": role, "content": content if isinstance(content, str) else [part.model_dump() for part in content]}
        for role, content in (*system, *asked)
    ]
    text = data.model_dump_json()
    try:
        is_same = opened.rebuilt(text).data == data
    except ValidationError:
        is_same = False
    if not is_same:
        raise RecordError("the data of the task cannot be kept as JSON and read again, which scoring needs")
    return {"prompt": messages, "taskset": spec, "task": text}


def _needs_more(opened: OpenTaskset, task: Any, name: str) -> str:
    """What a taskset needs besides one reply to each prompt; empty if nothing."""
    library, cls = opened.library, type(task)
    loaders = importlib.import_module("verifiers.v1.utils.loaders")
    if (environment := loaders.environment_class(name)) is not library.SingleAgentEnv:
        return f"brings an environment of its own, {environment.__name__}"
    if loaders.default_harness_id(name) == name:
        return "brings a harness of its own"
    if cls is not opened.tasks.task_type():
        return f"yields {cls.__name__}, not the type of task that it declares"
    if cls.NEEDS_CONTAINER:
        return "runs in a container"
    for hook in ("setup", "finalize"):
        # One that is not given the trace has no part in what rewards see of it.
        is_own = getattr(cls, hook) is not getattr(library.Task, hook)
        if is_own and "trace" in inspect.signature(getattr(cls, hook)).parameters:
            return f"prepares or collects something in a runtime ({cls.__name__}.{hook})"
    if opened.tasks.toolsets(opened.tasks.config) or cls.toolsets(task.config):
        return "has tools"
    if importlib.import_module("verifiers.v1.utils.decorators").discover_decorated(task, "intercept"):
        return "changes requests or replies on their way"
    return _scoring_needs(task)


def _scoring_needs(task: Any) -> str:
    """What the rewards and judges of a task need besides the trace; empty if nothing."""
    rewards = [*task.hooks("reward"), *(judge.score for judge in task.plugged_judges())]
    for reward in rewards:
        runtime = inspect.signature(reward).parameters.get("runtime")
        if runtime is not None and runtime.default is inspect.Parameter.empty:
            name = getattr(reward, "__name__", str(reward))
            return f"scores in a runtime ({name}; the option task.rewards can put another function in its place)"
    return "" if rewards else "has no reward"

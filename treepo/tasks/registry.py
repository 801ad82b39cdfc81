"""The built-in tasks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepo.errors import SettingError
from treepo.tasks.base import BuiltInTask
from treepo.tasks.calculator import CalculatorSums
from treepo.tasks.chain_sums import ChainSums
from treepo.tasks.maze import MazeGames
from treepo.tasks.settings import TaskSettings
from treepo.tasks.start_sums import StartSums

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILT_IN_TASKS: dict[str, type[BuiltInTask]] = {
    task.name: task for task in (ChainSums, StartSums, MazeGames, CalculatorSums)
}


def built_in_task(settings: TaskSettings) -> type[BuiltInTask]:
    """The task that settings name."""
    return BUILT_IN_TASKS[settings.name]


def make_task(settings: TaskSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> BuiltInTask:
    """The task for a model. Raises SettingError if the model is that of another one."""
    task, own = built_in_task(settings), task_of_tokenizer(tokenizer)
    if own is not None and own is not task:
        raise SettingError("task.name", f"the model knows the task {own.name!r} alone", settings.name)
    return task(tokenizer, seed)


def task_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> type[BuiltInTask] | None:
    """The task whose tokenizer a model has, None for that of any other model."""
    vocabulary = tokenizer.get_vocab()
    own = (task for task in BUILT_IN_TASKS.values() if vocabulary == {t: i for i, t in enumerate(task.tokens)})
    return next(own, None)

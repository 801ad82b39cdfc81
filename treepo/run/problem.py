"""The problem that a tree is grown for outside training."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from treepo.config.schema import Config
from treepo.data.columns import as_columns
from treepo.data.problem import Problem
from treepo.envs.settings import BUILT_IN
from treepo.errors import RecordError, SettingError
from treepo.model.policy import Policy
from treepo.run.datasets import first_problem
from treepo.tasks.base import encode_prompt
from treepo.tasks.registry import built_in_task, task_of_tokenizer


def default_problem(config: Config, policy: Policy) -> Problem:
    """The problem where no prompt is given. An environment writes its own for a problem without a question."""
    if config.environment.is_given and config.data.is_given:
        return first_problem(config, policy.tokenizer)
    if config.environment.is_given and config.environment.factory not in BUILT_IN:
        return Problem("sample", "", tuple(config.prompt.encoder(policy.tokenizer)("")), ground_truth="")
    return built_in_task(config.task)(policy.tokenizer, config.train.seed).training_problems(0, 1)[0]


def problem_of_prompt(config: Config, policy: Policy, prompt: str, columns: Mapping[str, Any] | None = None) -> Problem:
    """The prompt as training would ask it: as a problem of the built-in task, or like one of a dataset. columns: of its
    record, which environments may read."""
    try:
        known = as_columns(columns or {})
    except RecordError as error:
        raise SettingError("columns", str(error)) from error
    own = task_of_tokenizer(policy.tokenizer)
    tools = config.environment.tool_set()
    encoder = config.prompt.encoder(policy.tokenizer, tools.schemas if tools else ())
    encode = partial(encode_prompt, policy.tokenizer) if own else encoder
    prompt_ids = tuple(encode(prompt))
    if own and policy.decode(prompt_ids) != prompt:
        reason = f"has characters that the built-in task has no tokens for; its problems look like {own.example}"
        raise SettingError("prompt", f"{prompt[:100]!r} {reason}")
    return Problem(prompt, prompt, prompt_ids, ground_truth="", columns=known)

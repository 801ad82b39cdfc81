"""One tree for one prompt, grown as in training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from treepo.config.schema import Config
from treepo.data.problem import Problem
from treepo.engine.base import Engine
from treepo.errors import EnvironmentFailedError, SettingError
from treepo.model.policy import Policy
from treepo.report.terminal import Terminal
from treepo.run.build import Run
from treepo.run.parts import build_policy, close_parts, engine_for
from treepo.run.problem import default_problem, problem_of_prompt
from treepo.run.reasoning import for_prompts
from treepo.run.sampler import build_sampler
from treepo.run.task import answers_of
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed


def sample_tree(config: Config, prompt: str | None, terminal: Terminal) -> tuple[Tree, Policy]:
    """Grow the tree of a prompt; None is the first training problem of the built-in task or, with an environment, of
    the dataset, if there is one.

    Raises SettingError for settings that cannot work and for a prompt that the model cannot be asked,
    FloatingPointError if logits are not finite.
    """
    with terminal.stage("loading the model"), terminal.progress("making the base model") as progress:
        policy = build_policy(config, progress)
    problem = default_problem(config, policy) if prompt is None else problem_of_prompt(config, policy, prompt)
    config = replace(config, verifier=for_prompts(config.verifier, [problem.prompt_ids], policy.decode))
    engine = engine_for(config, policy)
    try:
        _check_fits(problem, config, policy, engine)
        sampler = build_sampler(config, policy, engine, answers_of(config))
        with _columns_named(problem, "leave out --prompt, and the first problem of the dataset is asked"):
            ((_, tree),) = sampler.grow([problem], derive_seed(config.train.seed, "sample"))
    finally:
        close_parts(engine)
    return tree, policy


def grow_tree(run: Run, prompt: str, columns: Mapping[str, Any] | None = None) -> Tree:
    """Grow the tree of a prompt, with the columns of its record, with the parts of a run; raises what `sample_tree`
    does."""
    config, policy = run.config, run.policy
    problem = problem_of_prompt(config, policy, prompt, columns)
    _check_fits(problem, config, policy, run.trainer.engine)
    with run.trainer.serving(), _columns_named(problem, 'give them: grow(prompt, {"name": value})'):
        ((_, tree),) = run.trainer.sampler.grow([problem], derive_seed(config.train.seed, "sample"))
    return tree


@contextmanager
def _columns_named(problem: Problem, remedy: str) -> Iterator[None]:
    """Let the error of an environment say what to do where it wants columns that the problem does not have."""
    try:
        yield
    except EnvironmentFailedError as error:
        if problem.columns:
            raise
        raise EnvironmentFailedError(f"{error}; a prompt alone has no columns that it may read: {remedy}") from error


def _check_fits(problem: Problem, config: Config, policy: Policy, engine: Engine) -> None:
    """Raise SettingError if prompt and response are longer than the model or the engine allows."""
    prompt_len = len(problem.prompt_ids)
    response_len = config.tree.max_response_tokens + config.environment.num_observed_tokens
    needed = prompt_len + response_len
    if prompt_len == 0:
        raise SettingError("prompt", "it has no tokens")
    if policy.max_len is not None and needed > policy.max_len:
        raise SettingError(
            "prompt",
            f"its {prompt_len} tokens and responses of {response_len} (tree: depth x segment_len, or max_response_len; "
            "and environment.max_observed_tokens) "
            f"do not fit into the model's {policy.max_len} positions; give --recipe RUN/config.toml or a smaller tree",
        )
    if needed > engine.max_model_len:
        raise SettingError(
            "prompt",
            f"prompt and response of {needed} tokens do not fit into the engine's {engine.max_model_len} "
            "(engine.max_cache_tokens, vllm.max_model_len, or the servers' max-model-len)",
        )

"""`treepo sample`: grows one tree for one prompt, shows it, and keeps it if a file is named."""

import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from treepo.cli.arguments import CommandParser
from treepo.errors import SettingError

if TYPE_CHECKING:
    from treepo.config.schema import Config
    from treepo.data.problem import Problem
    from treepo.engine.base import Engine
    from treepo.model.policy import Policy
    from treepo.tree import Tree

logger = logging.getLogger(__name__)


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("sample", "Grow one tree and show it.", _settings_help)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="folder or name of a model, like --model.path (default: the base model of the built-in task)",
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what to ask; of the built-in task a problem such as 71a-3b-3c-5d-6: (default: the first it trains on)",
    )
    parser.add_argument("--recipe", metavar="RECIPE.toml", help="settings")
    parser.add_argument("--out", metavar="FILE.parquet", help="keep the tree in this new file")
    return parser


def run(options: Namespace, console: Console) -> None:
    """Grow the tree and show it; raises FloatingPointError if logits are not finite."""
    # torch and transformers load here, not for --help.
    from transformers.utils.logging import disable_progress_bar

    from treepo.report.terminal import Terminal
    from treepo.report.tree_view import TreeView, summary
    from treepo.run.policy import build_policy
    from treepo.run.rollout import build_sampler, engine_for
    from treepo.utils.io import check_unused
    from treepo.utils.rng import derive_seed

    disable_progress_bar()
    config = _settings(options)
    if options.out == "":
        raise SettingError("out", "no file given")
    if options.out is not None:
        check_unused(Path(options.out), is_folder=False)
    _check_prompt(options.prompt, config)
    with Terminal(console).progress("making the base model") as progress:
        policy = build_policy(config, progress)
    problem = _problem(config, policy, options.prompt)
    engine = engine_for(config, policy)
    try:
        _check_fits(problem, config, policy, engine)
        ((_, tree),) = build_sampler(config, policy, engine).grow([problem], derive_seed(config.train.seed, "sample"))
    finally:
        getattr(engine, "close", lambda: None)()
    console.print(TreeView(tree, policy.decode), crop=False)
    logger.info("%s", summary(tree))
    if options.out is not None:
        _keep(tree, policy, Path(options.out))


def _settings(options: Namespace) -> "Config":
    """The settings of a recipe or of the built-in task, with the model and the command line's settings on top."""
    from treepo.config.load import read_recipe, resolve
    from treepo.config.schema import BUILT_IN_TASK
    from treepo.model.settings import LoraSettings

    model, named = options.model, options.settings.get("model", {}).get("path")
    if model == "":
        raise SettingError("model.path", "no model given")
    if model is not None and named is not None:
        raise SettingError("model.path", f"given twice, {model!r} and {named!r}")
    base = {} if model or named else BUILT_IN_TASK
    if options.recipe is not None:
        base = read_recipe(Path(options.recipe))
    config = resolve(base, {"model": {"path": model}} if model else {}, options.settings)
    # Adapters that nothing has trained yet change nothing.
    return replace(config, lora=LoraSettings())


def _check_prompt(prompt: str | None, config: "Config") -> None:
    """Raise SettingError for a prompt that no model can be asked."""
    if prompt is None and config.model.path:
        raise SettingError("prompt", f"none given for model {config.model.path!r}; give one with --prompt")
    if prompt is not None and not prompt.strip():
        raise SettingError("prompt", "empty")
    if prompt is not None and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise SettingError("prompt", f"{prompt[:100]!r} is no text in the terminal's encoding")


def _problem(config: "Config", policy: "Policy", prompt: str | None) -> "Problem":
    """The prompt as training would ask it: as a problem of the built-in task, or like one of a dataset."""
    from treepo.data.problem import Problem
    from treepo.tasks.chain_sums import ChainSums, encode_prompt, is_chain_tokenizer

    if prompt is None:
        return ChainSums(policy.tokenizer, config.train.seed).training_problems(0, 1)[0]
    if not is_chain_tokenizer(policy.tokenizer):
        prompt_ids = tuple(config.prompt.encoder(policy.tokenizer)(prompt))
        return Problem(prompt, prompt, prompt_ids, answer="")
    prompt_ids = encode_prompt(policy.tokenizer, prompt)
    if policy.decode(prompt_ids) != prompt:
        raise SettingError(
            "prompt",
            f"{prompt[:100]!r} has characters that the built-in task has no tokens for; "
            "its problems look like 71a-3b-3c-5d-6:",
        )
    return Problem(prompt, prompt, prompt_ids, answer="")


def _check_fits(problem: "Problem", config: "Config", policy: "Policy", engine: "Engine") -> None:
    """Raise SettingError if prompt and response are longer than the model or the engine allows."""
    prompt_len, response_len = len(problem.prompt_ids), config.tree.max_response_tokens
    needed = prompt_len + response_len
    if prompt_len == 0:
        raise SettingError("prompt", "it has no tokens")
    if policy.max_len is not None and needed > policy.max_len:
        raise SettingError(
            "prompt",
            f"its {prompt_len} tokens and responses of {response_len} (tree: depth x segment_len, or max_response_len) "
            f"do not fit into the model's {policy.max_len} positions",
        )
    if needed > engine.max_model_len:
        raise SettingError(
            "prompt",
            f"prompt and response of {needed} tokens do not fit into the engine's {engine.max_model_len} "
            "(engine.max_cache_tokens, vllm.max_model_len, or the servers' max-model-len)",
        )


def _keep(tree: "Tree", policy: "Policy", out: Path) -> None:
    from treepo.report.trees import KeptTree, write_trees

    try:
        write_trees(out, [KeptTree(tree)], policy.decode)
    except OSError as error:
        raise SettingError("out", f"cannot write to {str(out)!r}: {error}") from error
    logger.info("The tree is in %s.", out)


def _settings_help() -> str:
    from treepo.config.help import settings_text
    from treepo.config.schema import Config

    return settings_text(Config)

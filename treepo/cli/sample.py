"""`treepo sample`: grows one tree for one prompt, shows it, and keeps it if a file is named."""

import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from treepo.cli.common import CommandParser, run_settings_help
from treepo.errors import SettingError, named_as_typed

if TYPE_CHECKING:
    from treepo.config.schema import Config

logger = logging.getLogger(__name__)


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("sample", "Grow one tree and show it.", run_settings_help)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="folder or name of a model, like --model.path (default: the base model of the built-in task)",
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what to ask; of the built-in task a problem such as 71a-3b-3c-5d-6: (default: the first it trains on, or "
        "with an environment the first of the dataset)",
    )
    parser.add_argument("--recipe", metavar="RECIPE.toml", help="settings")
    parser.add_argument("--out", metavar="FILE.parquet", help="keep the tree in this new file")
    return parser


def run(options: Namespace, console: Console) -> None:
    """Grow the tree and show it; raises FloatingPointError if logits are not finite."""
    from treepo.report.terminal import Terminal

    with Terminal(console).stage("loading PyTorch and transformers"):
        # Here, not for --help.
        from transformers.utils.logging import disable_progress_bar

        from treepo.report.tree_view import TreeView, summary
        from treepo.report.trees import KeptTree, write_trees
        from treepo.run.sample import sample_tree
        from treepo.utils.io import check_unused, writing

    disable_progress_bar()
    out = None if options.out is None else Path(options.out)
    if out is not None:
        check_unused(out, is_folder=False)
    with named_as_typed({} if options.model is None else {"model.path": "MODEL"}):
        config = _settings(options)
        _check_prompt(options.prompt, "" if config.environment.is_given else config.model.path)
        tree, policy = sample_tree(config, options.prompt, Terminal(console))
    console.print(TreeView(tree, policy.decode), crop=False)
    logger.info("%s", summary(tree))
    if out is not None:
        with writing(out, "the tree above", "out"):
            write_trees(out, [KeptTree(tree)], policy.decode)
        logger.info("The tree is in %s.", out)


def _settings(options: Namespace) -> "Config":
    """The settings of a recipe or of the built-in task, with the model and the command line's settings on top."""
    from treepo.config.load import read_recipe, resolve
    from treepo.config.schema import BUILT_IN_TASK
    from treepo.model.settings import LoraSettings

    model, named = options.model, options.settings.get("model", {}).get("path")
    if model is not None and named is not None:
        raise SettingError("model.path", f"given twice, {model!r} and {named!r}")
    base = {} if model or named else BUILT_IN_TASK
    if options.recipe is not None:
        base = read_recipe(Path(options.recipe))
    config = resolve(base, {"model": {"path": model}} if model else {}, options.settings)
    # Adapters that nothing has trained yet change nothing.
    return replace(config, lora=LoraSettings())


def _check_prompt(prompt: str | None, model: str) -> None:
    """Raise SettingError for a prompt that no model can be asked. model: one that needs a prompt."""
    if prompt is None and model:
        raise SettingError("prompt", f"none given for model {model!r}; give one with --prompt")
    if prompt is not None and not prompt.strip():
        raise SettingError("prompt", "empty")
    if prompt is not None and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise SettingError("prompt", f"{prompt[:100]!r} is no text in the terminal's encoding")

"""`treepo plan`: the shape of trees that pays for a model and its problems, as the sections of a recipe."""

import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from treepo.cli.common import CommandParser, run_settings_help
from treepo.errors import SettingError

if TYPE_CHECKING:
    from treepo.config.schema import Config

logger = logging.getLogger(__name__)

SECTIONS = ("tree", "initial_fork", "branching", "fallback", "credit")
"""What a plan reads of a run's settings."""


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser(
        "plan",
        "Grow a few trees, or read those of a run, and choose the shape with the least noise of the update per token.\n"
        "Prints sections of a recipe, with what is known of each stage of a response as comments.",
        run_settings_help,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL|RUN",
        help="folder or name of a model, or folder of a run that has kept trees (default: the base model of the "
        "built-in task)",
    )
    parser.add_argument("--recipe", metavar="RECIPE.toml", help="settings")
    parser.add_argument("--problems", type=int, default=32, metavar="N", help="trees to grow (default: 32)")
    parser.add_argument("--out", metavar="FILE.toml", help="write the sections to this new file")
    parser.add_argument(
        "--trust-run-code",
        action="store_true",
        help="import the modules that a run's settings name, which runs their code",
    )
    return parser


def run(options: Namespace, console: Console) -> None:
    """Choose a shape and print it; raises FloatingPointError if logits are not finite."""
    from treepo.report.terminal import Terminal

    if options.problems < 2:
        raise SettingError("problems", "must be at least 2", options.problems)
    with Terminal(console).stage("loading PyTorch and transformers"):
        # Here, not for --help.
        from transformers.utils.logging import disable_progress_bar

        from treepo.run.plan import plan_for_model, plan_for_run
        from treepo.run.run_point import RunPoint
        from treepo.utils.io import check_unused, create_text, writing

    disable_progress_bar()
    out = None if options.out is None else Path(options.out)
    if out is not None:
        check_unused(out, is_folder=False)
    if options.model is not None and (point := RunPoint.find(options.model)) is not None:
        report = plan_for_run(_run_settings(point.settings(), options), Path(options.model))
    else:
        report = plan_for_model(_settings(options), options.problems, Terminal(console))
    text = report.text()
    print(text, end="")
    if out is not None:
        with writing(out, "the plan above", "out"):
            create_text(out, text)
        logger.info("The sections are in %s.", out)


def _settings(options: Namespace) -> "Config":
    """The settings of a recipe or of the built-in task, with the model and the command line's settings on top."""
    from treepo.config.load import read_recipe, resolve
    from treepo.config.schema import BUILT_IN_TASK, is_data_given
    from treepo.model.settings import LoraSettings

    base = {} if options.model or is_data_given(options.settings) else BUILT_IN_TASK
    if options.recipe is not None:
        base = read_recipe(Path(options.recipe))
    config = resolve(base, {"model": {"path": options.model}} if options.model else {}, options.settings)
    # Adapters that nothing has trained yet change nothing.
    return replace(config, lora=LoraSettings())


def _run_settings(settings: object, options: Namespace) -> "Config":
    """What a plan reads of a run's settings, with the command line's on top."""
    from treepo.config.load import resolve

    assert isinstance(settings, dict)
    kept = {name: values for name, values in settings.items() if name in SECTIONS and isinstance(values, dict)}
    for name, values in kept.items():
        if ":" in str(values.get("use")) and name not in options.settings and not options.trust_run_code:
            message = "the run names code to be run; give --trust-run-code if you trust it, or another value"
            raise SettingError(f"{name}.use", message, values["use"])
    return resolve(kept, options.settings)

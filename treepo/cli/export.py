"""`treepo export`: writes the model of a run's checkpoint as a folder that transformers loads."""

from argparse import Namespace
from pathlib import Path

from rich.console import Console

from treepo.cli.common import CommandParser
from treepo.errors import SettingError

ABOUT = """Write the model of a run's checkpoint as a folder that transformers and vLLM load or, of a run that trained
adapters, the adapter as peft loads it. RUN is the run's folder; RUN@STEP its checkpoint of that step, RUN@best the one
with the best eval/avg. A run that is still training can be exported, too."""


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("export", ABOUT)
    parser.add_argument("run", nargs="?", metavar="RUN[@STEP]", help="folder of a run (default: its last checkpoint)")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="new folder for the model")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="type of the weights (default: that of the base model; of an adapter, that of training)",
    )
    parser.add_argument("--merge", action="store_true", help="add the adapter to the base model and write the whole")
    parser.add_argument(
        "--trust-run-code", action="store_true", help="run Python code that comes with the base model, if the run did"
    )
    return parser


def run(options: Namespace, console: Console) -> None:
    """Write the model. Raises SettingError naming what was given wrongly, WriteError if it cannot be written."""
    if options.settings:
        raise SettingError(next(iter(options.settings)), "an export has no settings but --dtype and --merge")
    if not options.run or not options.folder:
        raise SettingError("export", "give the folder of a run and a new folder: treepo export RUN DIR")
    from treepo.report.terminal import Terminal

    terminal = Terminal(console)
    with terminal.stage("loading PyTorch and transformers"):
        # Here, not for --help.
        from transformers.utils.logging import disable_progress_bar

        from treepo.run.export import export_checkpoint
        from treepo.run.run_point import RunPoint

    disable_progress_bar()
    export_checkpoint(
        RunPoint.parse(options.run),
        Path(options.folder),
        terminal,
        dtype=options.dtype or "",
        merge=options.merge,
        trust_run_code=options.trust_run_code,
    )

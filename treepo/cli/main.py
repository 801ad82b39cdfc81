"""The command line: finds the command, shows its messages and errors, and sets the exit code."""

import os
import shlex
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

import treepo
from treepo.cli.common import split_overrides
from treepo.cli.streams import Output, standard_streams
from treepo.errors import RESOURCE_ERRORS, USER_ERRORS, Interrupted, LostError, PeerError, SettingError
from treepo.utils import process_rank
from treepo.utils.imports import drop_current_folder
from treepo.utils.text import message_line

COMMANDS = {
    "train": ("treepo.cli.train", "post-train a model with trees"),
    "sample": ("treepo.cli.sample", "grow one tree for a prompt and show it"),
    "plan": ("treepo.cli.plan", "choose the shape of trees that pays for a model and its problems"),
    "eval": ("treepo.cli.evaluate", "measure how often models are right, and at what cost"),
    "export": ("treepo.cli.export", "write the model of a run's checkpoint as a folder to load"),
    "verify": ("treepo.cli.verify", "judge responses in a file, to test a verifier on your data"),
    "report": ("treepo.cli.report", "write an HTML page about runs, evaluations and benchmarks"),
    "watch": ("treepo.cli.watch", "follow a run in the terminal or in a browser"),
    "recipes": ("treepo.cli.recipes", "list the recipes and examples that come with treepo, or copy one"),
    "bench": ("treepo.cli.bench", "measure trees against sequential sampling and padded updates"),
}
"""By name: the module, with its `make_parser` and `run`, and what the command does."""

LONG = {"train", "eval", "bench"}
"""Commands whose results are files: they go on where nobody reads what they show, such as `tee` that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or what the command says; 2 with one line on standard error for a
    user's mistake; 3 with one where disk or memory have no room; docs/runs.md has the others.

    TREEPO_DEBUG=1 in the environment shows the traceback of a mistake, too.
    """
    # Threads of GNU OpenMP spin long while they wait: beside a busy process that makes small models several times
    # slower, and spinning briefly costs little on a quiet machine. Must be set before torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # On GPUs micro-batches and caches of ever other sizes leave gaps in the memory that PyTorch holds; segments that
    # grow have few. vLLM 0.32 takes care of them where it cannot have them.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ and sys.platform == "linux":
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    path = drop_current_folder()
    try:
        with standard_streams() as output:
            return _main(list(sys.argv[1:] if argv is None else argv), output)
    finally:
        # As it was for a program that called this, with what settings have added.
        sys.path[:] = path + [entry for entry in sys.path if entry not in path]


def _main(args: Sequence[str], output: Output) -> int:
    """The exit code of a command, its errors shown."""
    try:
        code = _run(args, output)
        output.check()
        return code
    except USER_ERRORS as error:
        return _fail(error, 2)
    except RESOURCE_ERRORS as error:
        return _fail(error, 3)
    except PeerError as error:
        return _fail(error, 3 if {kind.__name__ for kind in RESOURCE_ERRORS} & {*error.kinds} else 1)
    except (FloatingPointError, LostError) as error:
        return _fail(error, 1)
    except Interrupted as error:
        return _fail(error, 128 + error.signum)
    except BrokenPipeError:
        # The reader of our output has gone; without this Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("treepo: interrupted", file=sys.stderr)
        return 130


def _run(args: Sequence[str], output: Output) -> int:
    settings, rest = split_overrides(args)
    if not rest or rest[0] in {"--help", "-h"}:
        print(help_text())
        return 0
    name, *others = rest
    if name == "--version":
        print(f"treepo {treepo.__version__}")
        return 0
    if name not in COMMANDS:
        raise SettingError("command line", f"no command {name!r}; there are {', '.join(COMMANDS)}")
    command = import_module(COMMANDS[name][0])
    parser = command.make_parser()
    if {"--help", "-h"} & set(others):
        print(parser.format_help())
        return 0
    output.outlives_reader = name in LONG
    options = parser.parse_intermixed_args(others)
    _check_given(options)
    options.settings, options.command_line = settings, shlex.join(["treepo", *args])
    if name != "train" and _is_one_of_several():
        message = f"`treepo {name}` is for one process: start it without torchrun, several would all do the same"
        raise SettingError("command line", message)
    # rich loads here: `treepo --help` has to answer at once.
    from treepo.report.console import logging_to_console
    from treepo.utils.io import going_on

    # With --json as a flag, standard output holds data alone.
    is_data = getattr(options, "json", None) is True
    with logging_to_console(stderr=is_data) as console, going_on(options.command_line):
        return command.run(options, console) or 0


def _is_one_of_several() -> bool:
    """Whether torchrun has started several processes. Clusters set WORLD_SIZE in shells, too."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _check_given(options: Namespace) -> None:
    """Raise SettingError for an argument that is there and empty, as a shell's variable is that was never set."""
    for name, value in vars(options).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise SettingError(name.replace("_", "-"), "no value given")


def help_text() -> str:
    """What `treepo --help` says."""
    commands = "\n".join(f"  {name:<8}{about}" for name, (_, about) in COMMANDS.items())
    return f"""usage: treepo COMMAND [OPTION ...] [--section.key VALUE ...]

Post-train language models with reinforcement learning on trees of answers.

commands:
{commands}

`treepo COMMAND --help` lists the command's options and settings. `treepo train` alone trains a small model on the
built-in task. `treepo --version` prints the version."""


def _fail(error: BaseException, code: int) -> int:
    """Show the error as one line, with the notes that were added to it."""
    if os.environ.get("TREEPO_DEBUG") == "1":
        traceback.print_exc()
    program = f"treepo (process {process_rank()})" if process_rank() else "treepo"
    text = "; ".join([str(error), *getattr(error, "__notes__", ())])
    print(f"{program}: {message_line(text)}", file=sys.stderr)
    return code

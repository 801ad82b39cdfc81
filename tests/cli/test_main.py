"""What all commands share: help, exit codes, errors and messages."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from treepo.cli.main import COMMANDS, main
from treepo.config.help import settings_page
from treepo.errors import USER_ERRORS, SettingError
from treepo.report.console import ConsoleHandler, logging_to_console

DOCS = Path(__file__).parents[2] / "docs"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_is_short_and_light():
    """It took five seconds, and listed every setting of everything."""
    code = """
import sys, time
from treepo.cli.main import main
assert main(["--help"]) == 0
assert not {"numpy", "pydantic", "rich", "torch", "transformers"} & set(sys.modules)
assert time.process_time() < 0.5
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) < 25
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_loads_no_model_library(name):
    """It lists the command's own options, and its settings with their legal values."""
    code = f"""
import sys
from treepo.cli.main import main
assert main([{name!r}, "--help"]) == 0
assert not {{"torch", "transformers", "vllm"}} & set(sys.modules)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: treepo {name} ")
    own = {
        "train": ("--resume DIR", "--tree.width  integer (default: 8)", '--credit.use  "DrGRPO", "FadingDifference"'),
        "sample": ("--prompt TEXT", "--stopping.answer"),
        "plan": ("--problems N", "--trust-run-code", "--tree.width  integer (default: 8)"),
        "eval": ("--samples K", "--data.answer_after"),
        "export": ("--dtype", "--merge"),
        "verify": ("--expected FIELD", "--data.response_field", "--verifier.extract_from"),
        "report": ("--out FILE.html",),
        "watch": ("--port PORT",),
        "recipes": ("NAME", "DIR"),
        "bench": ("rollout", "--grid.widths", "--synthetic.sharing"),
    }
    assert all(text in result.stdout for text in own[name])


def test_settings_page_is_up_to_date():
    """`python -m treepo.config.help > docs/settings.md` writes it anew."""
    assert (DOCS / "settings.md").read_text() == settings_page()


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: treepo COMMAND")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("treepo 0.")


@pytest.mark.parametrize("args", [["--tree.width", "3", "sample"], ["sample", "--tree.width=3"]])
def test_settings_may_stand_anywhere(args, monkeypatch):
    given = []
    monkeypatch.setattr("treepo.cli.sample.run", lambda options, console: given.append(options.settings))
    assert main(args) == 0
    assert given == [{"tree": {"width": 3}}]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["grow"], "command line: no command 'grow'; there are train, sample, "),
        (["--out", "x", "train"], "command line: no command '--out'"),
        (["train", "--wdith", "4"], "command line: unrecognized arguments: --wdith (see treepo train --help)"),
        (["eval", "--samples", "x"], "command line: argument --samples: invalid int value: 'x'"),
        (["train", "--tree.width"], "tree.width: no value given"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(args, message, capsys):
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"treepo: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["train", ""], "recipe"),
        (["train", "--out", ""], "out"),
        (["eval", "--recipe", ""], "recipe"),
        (["eval", "--json", ""], "json"),
        (["eval", "--data", "gsm8k", ""], "data"),
        (["verify", "x.jsonl", "--expected", ""], "expected"),
        (["bench", "rollout", ""], "model"),
        (["report", "run", ""], "paths"),
    ],
)
def test_an_empty_argument_is_a_mistake(args, name, capsys):
    """`treepo train "$RECIPE"` without that variable trained the built-in task; others were taken for not given."""
    assert main(args) == 2
    assert capsys.readouterr().err == f"treepo: {name}: no value given\n"


@pytest.mark.parametrize("kind", USER_ERRORS)
def test_mistakes_of_users_are_one_line(kind, monkeypatch, capsys):
    """Without what steers a terminal; TREEPO_DEBUG=1 adds the traceback."""

    def fail(*_):
        raise kind(*(["a.b"] if issubclass(kind, SettingError) else []), "wrong\n\x1b[2J")

    monkeypatch.setattr("treepo.cli.sample.run", fail)
    monkeypatch.delenv("TREEPO_DEBUG", raising=False)
    assert main(["sample"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("treepo: ") and error.count("\n") == 1 and "\x1b" not in error
    monkeypatch.setenv("TREEPO_DEBUG", "1")
    assert main(["sample"]) == 2
    debug = capsys.readouterr().err
    assert debug.startswith("Traceback") and debug.endswith(error)


PLANTED = """
import sys
import numpy as np
import treepo.run.build
from treepo.cli.main import main

treepo.run.build.build_task = lambda *_, **__: np.zeros(3).reshape(2, 2)
sys.exit(main(["train", "--model.path", {model!r}, "--out", {out!r}, *{args!r}]))
"""


def test_a_bug_while_building_keeps_its_traceback(chain_model, tmp_path):
    """A ValueError out of numpy was shown as the user's mistake, in one line without a place."""
    result = run(PLANTED.format(model=str(chain_model), out=str(tmp_path / "out"), args=[]))
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "ValueError: cannot reshape array of size 3" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_a_setting_is_one_line(chain_model, tmp_path):
    args = ["--tree.depth", "two"]
    result = run(PLANTED.format(model=str(chain_model), out=str(tmp_path / "out"), args=args))
    assert result.returncode == 2
    assert result.stderr.startswith("treepo: tree.depth: ") and result.stderr.count("\n") == 1


def test_nothing_is_imported_from_the_current_folder_unless_a_setting_names_it(chain_model, tmp_path, monkeypatch):
    """A file that happens to be called like an optional package was imported, and so run."""
    (tmp_path / "wandb.py").write_text("raise SystemExit(99)\n")
    (tmp_path / "my_terse_reward.py").write_text(
        "from dataclasses import dataclass\n"
        "from treepo.verify.rewards import ShapedReward\n"
        "@dataclass(frozen=True)\n"
        "class Terse(ShapedReward):\n"
        "    bonus: float = 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    small = ["--model.path", str(chain_model), "--train.num_steps", "0", "--eval.num_problems", "0"]
    assert main(["train", *small, "--out", "one"]) == 0
    assert str(tmp_path) not in sys.path and "wandb" not in sys.modules
    assert main(["train", *small, "--out", "two", "--reward.use", "my_terse_reward:Terse"]) == 0
    assert sys.path[-1] == str(tmp_path)


def test_messages_are_lines_on_standard_output(capsys):
    """Warnings are marked, and nothing that a message quotes steers the terminal."""
    logger = logging.getLogger("treepo.somewhere")
    with logging_to_console():
        logger.info("read %d [bold]problems[/bold] :smile:", 3)
        logger.warning("two\nlines \x1b[2J")
        logger.debug("unseen")
    logger.info("after it")
    out, err = capsys.readouterr()
    assert out == "read 3 [bold]problems[/bold] :smile:\nwarning: two\\nlines \\x1b[2J\n"
    assert err == ""
    assert not any(isinstance(handler, ConsoleHandler) for handler in logging.getLogger("treepo").handlers)


def test_other_processes_of_a_job_show_errors_alone(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    logger = logging.getLogger("treepo.somewhere")
    with logging_to_console() as console:
        console.print("result")
        logger.warning("unseen")
        logger.error("seen")
    assert capsys.readouterr() == ("", "error: seen\n")


def test_torchrun_is_for_training(monkeypatch, capsys):
    """`torchrun -m treepo eval` ended where a process found the other's folder locked; `sample` showed a tree twice."""
    monkeypatch.setattr(os, "environ", os.environ | {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1"})
    assert main(["eval"]) == 2
    assert capsys.readouterr().err.startswith("treepo (process 1): command line: `treepo eval` is for one process")


def test_a_long_message_is_one_line(capsys):
    """A narrow terminal would break a path that is to be copied."""
    handler = ConsoleHandler(Console(width=20))
    handler.emit(logging.makeLogRecord({"msg": "x" * 100, "levelno": logging.INFO}))
    assert capsys.readouterr().out == "x" * 100 + "\n"


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has segments that grow on Linux alone")
@pytest.mark.parametrize("given", [{}, {"PYTORCH_ALLOC_CONF": "x"}, {"PYTORCH_CUDA_ALLOC_CONF": "y"}])
def test_memory_on_gpus_is_held_in_segments_that_grow(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has set how PyTorch allocates."""
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        # Set first, so that it is put back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["--version"]) == 0
    found = {name: value for name, value in os.environ.items() if name.startswith("PYTORCH_")}
    assert found == (given or {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})

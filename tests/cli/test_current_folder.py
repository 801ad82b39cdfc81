"""What lies in the current folder is imported by no command, however it is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import treepo

ROOT = Path(treepo.__file__).parents[1]

PLANTED = (
    # Optional packages, that libraries look for; packages that are there; modules of Python that we import.
    *("pynvml", "wandb", "tensorboard", "peft", "vllm", "datasets", "accelerate", "flash_attn", "kernels", "scipy"),
    *("numpy", "rich", "jinja2", "pydantic", "filelock", "transformers", "tokenizers", "pyarrow", "pandas", "yaml"),
    *("shlex", "tomllib", "argparse", "typing", "traceback", "html", "sqlite3", "decimal", "csv", "platform", "uuid"),
)

RUN = {"config.toml": "[train]\nnum_steps = 1\n", "metrics.jsonl": '{"step": 0}\n{"step": 1, "reward/mean": 0.5}\n'}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A stranger's folder: a run, and files that leave a mark when they are imported."""
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r} + ' ')\n1 / 0\n"
        )
    (tmp_path / "run").mkdir()
    for name, text in RUN.items():
        (tmp_path / "run" / name).write_text(text)
    return tmp_path


def start(here: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # In a folder that is empty Python starts as it does anywhere; what it imports before us is not ours to choose.
    probe = [sys.executable, "-m", "one"]
    (here.parent / "empty").mkdir(exist_ok=True)
    (here.parent / "empty" / "one.py").write_text("import sys; print(*sys.modules)")
    loaded = subprocess.run(probe, cwd=here.parent / "empty", capture_output=True, text=True, check=True).stdout.split()
    for name in {*loaded} & {*PLANTED}:
        (here / f"{name}.py").unlink()
    own = {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [sys.executable, *args], cwd=here, env=os.environ | own, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "command", [["--help"], ["train", "--help"], ["eval", "--help"], ["report", "run"], ["watch", "run"]], ids=" ".join
)
def test_nothing_is_imported_from_it(here: Path, command: list[str]) -> None:
    """`python -m treepo report` in a folder with a pynvml.py ran it."""
    result = start(here, "-m", "treepo", *command)
    assert result.returncode == 0, result.stderr
    assert not (here / "imported").exists(), (here / "imported").read_text()


def test_a_program_that_calls_a_command_keeps_its_path(here: Path) -> None:
    """Python puts the current folder on its path; the command does without it, and what comes after has it again."""
    code = (
        "import sys; before = list(sys.path)\n"
        "from treepo.cli.main import main\n"
        "assert main(['watch', 'run']) == 0 and sys.path == before and before[0] == ''\n"
    )
    for name in PLANTED:
        if name != "pydantic":
            (here / f"{name}.py").unlink()
    result = start(here, "-c", code)
    assert result.returncode == 0, result.stderr
    assert not (here / "imported").exists()


@pytest.mark.parametrize("entry", ["", "."])
def test_empty_entries_of_pythonpath_are_no_wish(here: Path, entry: str) -> None:
    """`PYTHONPATH=$PYTHONPATH:/elsewhere` names the current folder by accident."""
    result = start(here, "-m", "treepo", "report", "run", PYTHONPATH=f"{ROOT}{os.pathsep}{entry}")
    assert result.returncode == 0, result.stderr
    assert not (here / "imported").exists()


def test_a_module_that_a_setting_names_is_found_in_it(here: Path) -> None:
    """And the folder is last then: packages that are installed are not replaced."""
    (here / "my_loss.py").write_text(
        "import beside_my_loss, sys\nassert sys.path[-1] == beside_my_loss.FOLDER\nX = 1\n"
    )
    (here / "beside_my_loss.py").write_text(f"FOLDER = {str(here)!r}\n")
    result = start(here, "-m", "treepo", "train", "--loss.use", "my_loss:X")
    assert result.stderr.endswith("treepo: loss.use: 'my_loss:X' is not a dataclass\n"), result.stderr
    assert not (here / "imported").exists()


def test_a_deleted_folder_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = (
        "import os, runpy, sys; os.rmdir(os.getcwd()); sys.argv = ['treepo', '--version']\n"
        "runpy.run_module('treepo', run_name='__main__')"
    )
    result = start(tmp_path / "gone", "-c", code)
    assert (result.returncode, result.stdout[:9]) == (0, "treepo 0."), result.stderr

"""Workers that cannot start: told in one line that names the setting, and none is left behind."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from treepo.data.problem import Outcome, Verdict
from treepo.errors import SettingError, VerifierStartError
from treepo.verify.base import Verifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.verifiers import FunctionVerifier


def refusal(verifier: Verifier) -> str:
    """What is said of a verifier that cannot be started."""
    with (
        VerifierPool(verifier, VerifierPoolSettings(num_workers=1)) as pool,
        pytest.raises(VerifierStartError) as caught,
    ):
        pool.verify([("a", "a")])
    return str(caught.value)


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> FunctionVerifier:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    return FunctionVerifier(f"{name}:judge")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import sys\nsys.exit(4)\n", "SystemExit(4)"),
        ("sys.exit(4)\n", """NameError("name 'sys' is not defined")"""),
        ("def judge(:\n", "SyntaxError("),
    ],
)
def test_a_module_that_leaves_at_import_is_named(text, reason, tmp_path, monkeypatch):
    """sys.exit raises what is no Exception: the worker just ended, and a traceback followed."""
    said = refusal(write_module(tmp_path, monkeypatch, "leaves", text))
    assert said.startswith(f"verifier.function: cannot be imported: {reason}")
    assert said.endswith(", got 'leaves:judge'")
    assert "\n" not in said


def test_a_module_that_hangs_at_import_is_named_with_the_limit(tmp_path, monkeypatch):
    """It took 120 s and ended in a traceback."""
    monkeypatch.setattr("treepo.verify.process.START_LIMIT_S", 0.5)
    said = refusal(write_module(tmp_path, monkeypatch, "hangs", "import time\ntime.sleep(600)\n"))
    assert said == "verifier.function: a worker was not ready within 0.5 s, ended by SIGKILL, got 'hangs:judge'"


@dataclass(frozen=True)
class Fails:
    """A verifier of the user's own that cannot be loaded."""

    how: str = ""
    after: float = 1.0

    def load(self) -> None:
        if self.how == "exit":
            sys.exit("no\nlicense")
        if self.how == "key":
            raise KeyError("table")
        if self.how == "setting":
            raise SettingError("after", "must be\nat least 2", self.after)
        raise ValueError("no such file")

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        return Verdict(0.0, Outcome.NO_ANSWER, None)

    def example_response(self, ground_truth: str) -> str:
        return ground_truth


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "verifier: Fails: cannot be loaded: SystemExit: no license (test_start.py:"),
        ("key", "verifier: Fails: cannot be loaded: KeyError: 'table' (test_start.py:"),
        ("setting", "verifier.after: must be at least 2, got 1.0"),
        ("other", "verifier: Fails: no such file"),
    ],
)
def test_a_class_that_cannot_be_loaded_is_named(how, said):
    """Anything but a ValueError ended the worker; its traceback was printed inside the line."""
    assert refusal(Fails(how)).startswith(said)


def test_a_fork_that_ends_leaves_the_workers_alone():
    """Its finalizers killed them, though they are its parent's; and a fork that judges starts its own."""
    code = (
        "import os, sys\n"
        "from treepo.verify import *\n"
        "pool = VerifierPool(FunctionVerifier('tests.verify.judges:judge'), VerifierPoolSettings(num_workers=1))\n"
        "def worker(): return pool.verify([('pid', 'a')])[0].extracted_answer\n"
        "first = worker()\n"
        "for deed in (lambda: None, pool.close, lambda: worker() != first or os._exit(9)):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        deed()\n"
        "        sys.exit()\n"
        "    print(os.waitpid(child, 0)[1], worker() == first)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.stderr) == ("0 True\n" * 3, "")

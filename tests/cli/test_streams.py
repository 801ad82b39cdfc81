"""Output that nobody reads, that is closed, or that goes to a disk that is full."""

import errno
import os
import signal
import subprocess
import sys
from functools import partial
from io import StringIO

import pytest

from tests.run.test_resume import judged_by_length, options  # noqa: F401 - fixtures
from tests.runs import finish, last_state
from treepo.cli.main import main
from treepo.cli.streams import Output, standard_streams
from treepo.report.run_log import MetricsLog


def run(args: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """A command in a shell, with a redirection."""
    line = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "treepo", *args]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("args", "redirection", "code", "error"),
    [
        (["nosuch"], "2> /dev/full", 2, ""),
        (["nosuch"], "2>&-", 2, ""),
        (["nosuch"], ">&- 2>&-", 2, ""),
        (["--version"], "<&- >&-", 0, ""),
        (["--help"], "> /dev/full", 3, "treepo: 'standard output' cannot be written (No space"),
        (["--version"], "> /dev/full", 3, "treepo: 'standard output' cannot be written (No space"),
        (
            ["train", "--help"],
            "> /dev/full",
            3,
            "treepo: 'standard output' cannot be written (No space",
        ),
    ],
)
def test_the_exit_code_is_that_of_the_command(args, redirection, code, error):
    """These were tracebacks with exit code 1."""
    result = run(args, redirection)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith(error) and result.stderr.count("\n") == bool(error)


def closed() -> None:
    """As if started by a daemon that leaves no descriptors open."""
    for number in range(3):
        os.close(number)
    sys.stdout = sys.stderr = None  # pyright: ignore[reportAttributeAccessIssue]


def without_reader(*numbers: int) -> None:
    """Output goes to a program that has ended, such as `tee` on Ctrl-C."""
    reading, writing = os.pipe()
    os.close(reading)
    for number in numbers:
        os.dup2(writing, number)


def full() -> None:
    """Standard error, too, goes to a disk that is full."""
    for number in (1, 2):
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)


def then_signalled(setup: partial) -> None:
    """Do this, and have Ctrl-C pressed once step 2 has its metrics, before it is complete."""
    append = MetricsLog.append

    def signalled(self: MetricsLog, step: int, metrics: dict[str, float]) -> None:
        append(self, step, metrics)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    setup()
    MetricsLog.append = signalled


SETUPS = {
    "nobody reads": partial(without_reader, 1, 2),
    "nobody reads results": partial(without_reader, 1),
    "full": partial(full),
    "closed": partial(closed),
}


@pytest.mark.parametrize("name", SETUPS)
def test_ctrl_c_keeps_the_last_step_whatever_became_of_the_output(options, tmp_path, name):  # noqa: F811
    """The note of the signal could not be written: a traceback out of the handler, and the last steps were lost. With
    its descriptors closed, a run wrote its notes into whichever file had got their numbers."""
    out = tmp_path / "run"
    setup = partial(then_signalled, SETUPS[name])
    assert finish(["train", *options, "--out", str(out)], tmp_path / "log", setup) == 130
    assert last_state(out)["step"] == "step-000002"
    assert all(b"treepo: " not in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_run_goes_on_when_nobody_reads_what_it_shows(options, tmp_path):  # noqa: F811
    """`treepo train | head` ended it at the next line, with the last steps lost."""
    out = tmp_path / "run"
    assert finish(["train", *options, "--out", str(out)], tmp_path / "log", SETUPS["nobody reads results"]) == 3
    assert last_state(out)["step"] == "step-000006"
    error = (tmp_path / "log.err").read_text()
    assert error.startswith("treepo: 'standard output' cannot be written (Broken pipe)") and error.count("\n") == 1


def test_other_commands_end_with_their_reader():
    """Else `treepo watch | head` would follow a run for ever."""

    class Gone(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    with pytest.raises(BrokenPipeError):
        Output(Gone()).write("x")
    output = Output(Gone(), outlives_reader=True)
    assert output.write("x") == 1 and isinstance(output.failure, BrokenPipeError)


def test_the_streams_of_a_program_that_calls_it_are_its_own_afterwards(capsys):
    before = sys.stdout, sys.stderr
    assert main(["--version"]) == 0
    with standard_streams():
        assert isinstance(sys.stdout, Output)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out.startswith("treepo ")

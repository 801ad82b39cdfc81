"""Programs of the model: what they may and may not do."""

import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from treepo.envs.interpreter import PythonInterpreter, python
from treepo.errors import SettingError

HOUR = "import time; time.sleep(3600)"


@pytest.fixture(scope="module")
def tool() -> PythonInterpreter:
    return PythonInterpreter(timeout_s=120, cpu_s=1, memory_mib=256, max_output=200, file_mib=1)


@pytest.fixture
def isolated(tool: PythonInterpreter) -> PythonInterpreter:
    if not tool.is_isolated:
        pytest.skip("the kernel permits no namespaces")
    return tool


def test_what_a_program_prints_and_what_its_last_line_is_worth(tool):
    assert python("print('a')\nx = 3\nx * 2") == "a\n6"
    assert tool.python("def f():\n    return 1 / 0\nf()").splitlines() == [
        "Traceback (most recent call last):",
        '  File "<code>", line 3, in <module>',
        '  File "<code>", line 2, in f',
        "ZeroDivisionError: division by zero",
    ]
    assert "SyntaxError" in tool.python("x = ")


def test_programs_that_take_too_much_are_ended(tool, tmp_path, monkeypatch):
    """Processor time, memory, output, the clock; what a program has started ends with it, as soon as the kernel gets
    to it."""
    # The command lines of this test's programs name their folder, and so do those of what they start.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert tool.python("print(1)\nwhile True: pass").endswith("[ended: more than 1 seconds of processor time]")
    assert tool.python("x = bytearray(1 << 30)").endswith("MemoryError")
    too_much = "[ended: more than 200 characters of output]"
    assert tool.python("while True: print('x' * 99)").endswith(too_much)
    # It was told that it took too much processor time.
    assert tool.python("while True: print()") == f"\n{too_much}"
    quick = PythonInterpreter(timeout_s=0.7)
    started = f"import os, sys\nfor _ in range(20):\n    if os.fork() == 0:\n        os.setsid(); {HOUR}\n"
    start = time.monotonic()
    assert quick.python(started + HOUR) == "[ended: more than 0.7 seconds]"
    assert time.monotonic() - start < 30
    while any(os.fsencode(tmp_path) in read(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() - start < 60
        time.sleep(0.05)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_an_isolated_program_has_neither_network_nor_files_nor_other_processes(isolated, tmp_path, monkeypatch):
    kept = tmp_path / "kept.txt"
    kept.write_text("before")
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"('127.0.0.1', {server.getsockname()[1]})"
        tried = {
            f"import socket; socket.create_connection({address}, 2)": "Network is unreachable",
            f"import os; os.remove({str(kept)!r})": "Read-only file system",
            f"open({str(kept)!r}, 'w')": "Read-only file system",
            f"import os; os.kill({os.getpid()}, 0)": "No such process",
            f"open('/proc/{os.getppid()}/environ').read()": "Error",
            "import os; os.environ['SECRET_TOKEN']": "KeyError",
            "import os\nfor i in range(9): open(f'f{i}', 'wb').write(bytes(1 << 19))": "No space left on device",
            # Neither new privileges nor a namespace in which it would have some.
            "import ctypes; (ctypes.CDLL(None).unshare(0x10000000), ctypes.CDLL(None).unshare(0x20000))": "(-1, -1)",
        }
        for code, expected in tried.items():
            output = isolated.python(code)
            assert expected in output, (code, output)
    assert kept.read_text() == "before"
    assert "hi" in isolated.python("open('a', 'w').write('hi'); open('a').read()"), (
        "its own folder is empty and writable"
    )
    assert "FileNotFoundError" in isolated.python("open('a')"), "nothing is kept between calls"


def test_without_namespaces_it_says_what_is_missing(monkeypatch, caplog):
    monkeypatch.setattr("treepo.envs.interpreter.sys.platform", "elsewhere")
    PythonInterpreter().load()
    assert "with the network and the files of this user" in caplog.text
    with pytest.raises(SettingError, match="needs_isolation"):
        PythonInterpreter(needs_isolation=True).load()
    assert PythonInterpreter().python("3") == "3"
    with pytest.raises(SettingError, match="timeout_s"):
        PythonInterpreter(timeout_s=0)

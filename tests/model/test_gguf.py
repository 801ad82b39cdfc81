"""Models in GGUF files. A real one is read where TREEPO_TEST_GGUF names a file and the package gguf is installed."""

import os
from pathlib import Path

import pytest

from treepo.config.load import resolve
from treepo.config.paths import with_absolute_paths
from treepo.errors import SettingError
from treepo.model import gguf
from treepo.model.policy import load_policy
from treepo.run.model_path import model_folder


def test_a_file_that_is_not_there_or_is_no_gguf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREEPO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SettingError, match=r"model.path: no such file, got 'none.gguf'"):
        model_folder("none.gguf")
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF, it says")
    monkeypatch.setattr(gguf, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"need the package gguf: pip install 'treepo\[gguf\]'"):
        model_folder(str(path))
    monkeypatch.setattr(gguf, "find_spec", lambda _: object())
    with pytest.raises(SettingError, match="cannot read it as GGUF"):
        model_folder(str(path))
    assert not list((tmp_path / "cache").glob("gguf-*"))
    assert model_folder("org/model") == "org/model"


def test_a_run_keeps_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is resumed from another folder."""
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(resolve({"model": {"path": "model.gguf"}}))
    assert config.model.path == str(tmp_path / "model.gguf")


@pytest.mark.skipif("TREEPO_TEST_GGUF" not in os.environ, reason="no real GGUF file is named")
def test_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREEPO_CACHE", str(tmp_path))
    folder = model_folder(os.environ["TREEPO_TEST_GGUF"])
    assert model_folder(os.environ["TREEPO_TEST_GGUF"]) == folder
    policy = load_policy(folder)
    assert policy.eos_ids and policy.decode(policy.tokenizer("Hello there").input_ids) == "Hello there"

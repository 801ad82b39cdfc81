"""Modules that settings name."""

import importlib
import sys
from pathlib import Path

import pytest

from treepo.utils.imports import make_importable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a module, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    return tmp_path


def test_a_named_module_is_found_in_the_current_folder(here: Path) -> None:
    (here / "module_of_a_user.py").write_text("import beside_module_of_a_user\n")
    (here / "beside_module_of_a_user.py").touch()
    make_importable("module_of_a_user")
    assert sys.path[-1] == str(here)
    assert importlib.import_module("module_of_a_user")


@pytest.mark.parametrize("name", ["treepo.credit", "json", "nowhere_at_all", "", ".x"])
def test_other_names_do_not_add_the_current_folder(here: Path, name: str) -> None:
    """A file of the same name in the current folder is imported for none of them."""
    (here / "json.py").touch()
    (here / "treepo").mkdir()
    before = list(sys.path)
    make_importable(name)
    assert sys.path == before

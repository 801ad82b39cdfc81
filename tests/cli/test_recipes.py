"""`treepo recipes`: what comes with the package is listed, and copied."""

import tomllib
from pathlib import Path

import pytest

import treepo
from treepo.cli.main import main
from treepo.cli.recipes import first_line, shipped_files
from treepo.config.load import resolve

ROOT = Path(__file__).parents[2]


def test_every_recipe_and_example_is_listed_with_what_it_says_first(capsys):
    """One line each, also where the terminal is narrower."""
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    folders = [path for name in ("recipes", "examples") for path in (ROOT / name).iterdir() if path.is_file()]
    assert sorted(line.split()[0] for line in lines) == sorted(path.name for path in folders)
    (line,) = [line for line in lines if line.startswith("paper_qwen2.5_7b.toml ")]
    assert line.endswith("trees of 16 x 14 segments of 512.")


@pytest.mark.parametrize("path", shipped_files(), ids=lambda path: path.name)
def test_each_says_what_it_is(path):
    line = first_line(path)
    assert line.endswith(".") and 20 < len(line) <= 120 and not line.startswith(("#", '"'))


@pytest.mark.parametrize("name", ["chain_sums_grpo", "chain_sums_grpo.toml", "own_reward", "notebook.ipynb"])
def test_one_is_copied_into_the_current_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", name]) == 0
    (copy,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"{copy.name}\n"
    assert copy.stem == Path(name).stem or copy.name == name
    (source,) = [path for path in shipped_files() if path.name == copy.name]
    assert copy.read_bytes() == source.read_bytes()


def test_one_is_copied_into_a_new_folder_and_resolves(tmp_path, capsys):
    assert main(["recipes", "chain_sums_treepo", str(tmp_path / "new" / "folder")]) == 0
    copy = tmp_path / "new" / "folder" / "chain_sums_treepo.toml"
    assert capsys.readouterr().out == f"{copy}\n"
    assert resolve(tomllib.loads(copy.read_text())).tree.width == 8


def test_a_file_that_is_there_stays_as_it_is(tmp_path, capsys):
    mine = tmp_path / "own_reward.py"
    mine.write_text("mine")
    assert main(["recipes", "own_reward", str(tmp_path)]) == 2
    assert "there already" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["no_such"], "chain_sums_grpo"),
        (["../pyproject"], "no '../pyproject'"),
        (["own_reward", "{file}"], "folder: cannot write"),
        (["own_reward", "--tree.width", "4"], "tree"),
    ],
)
def test_mistakes_are_one_line(args, said, tmp_path, capsys):
    (tmp_path / "file").write_text("a file, no folder")
    assert main(["recipes", *[arg.format(file=tmp_path / "file") for arg in args]]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_a_package_with_its_own_copies_lists_those(tmp_path, monkeypatch, capsys):
    """As it is where a wheel is installed: what lies beside the package is somebody else's."""
    for folder in ("treepo/recipes", "treepo/examples", "recipes", "examples"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "treepo" / "recipes" / "small.toml").write_text("# A small one.\n")
    (tmp_path / "recipes" / "foreign.toml").write_text("# Another's.\n")
    monkeypatch.setattr(treepo, "__file__", str(tmp_path / "treepo" / "__init__.py"))
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out == "small.toml  A small one.\n"

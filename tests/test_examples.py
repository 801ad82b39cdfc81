"""The examples run and stay as short as promised."""

import ast
import importlib
import importlib.util
import tomllib
from pathlib import Path

import pytest

from treepo.cli import main
from treepo.config import resolve
from treepo.grow import LogprobBranching, Resume

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "tree_loop.py"


def test_tree_loop_runs(chain_model, capsys):
    spec = importlib.util.spec_from_file_location("tree_loop", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reward = module.main(chain_model, num_steps=2, num_problems=4)
    assert 0 <= reward <= 1
    assert "step 2: mean reward" in capsys.readouterr().out


def test_tree_loop_fits_in_200_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 200


def test_a_branching_of_ones_own_is_named_in_a_recipe(chain_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    args = ["train", "--model.path", str(chain_model), "--out", str(tmp_path / "out")]
    args += ["--branching.use", "my_branching:LatecomersFirst", "--branching.bonus", "3"]
    assert main([*args, "--train.num_steps", "1", "--train.problems_per_step", "3", "--eval.num_problems", "0"]) == 0
    recipe = tomllib.loads((tmp_path / "out" / "config.toml").read_text())
    assert recipe["branching"] == {"use": "my_branching:LatecomersFirst", "bonus": 3}


def test_the_recipe_of_the_strategies_page_resolves():
    page = (EXAMPLE.parent.parent / "docs" / "strategies.md").read_text()
    config = resolve(tomllib.loads(page.split("```toml")[1].split("```")[0]))
    assert config.branching == LogprobBranching("high", temperature=5.0, last_temperature=1.0)
    assert config.fallback == Resume("by_reason", max_windows=2)


@pytest.mark.parametrize("path", [p for d in ("benchmarks", "experiments") for p in sorted((ROOT / d).glob("*.py"))])
def test_scripts_import_what_there_is(path):
    """Nobody runs the long ones in a test; a name that has moved would only show when somebody does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("treepo."):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module

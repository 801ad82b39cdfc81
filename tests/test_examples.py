"""The examples run and stay as short as promised."""

import ast
import importlib
import importlib.util
import json
import re
import runpy
import sys
import tempfile
import tomllib
import types
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

import treepo
from tests.trees import add_segment
from treepo.cli.common import split_overrides
from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.config.schema import BUILT_IN_TASK, Config
from treepo.data.problem import Problem
from treepo.envs import check_forks
from treepo.envs.tools import ToolSet
from treepo.grow.branching import LogprobBranching
from treepo.grow.fallback import Backtrack
from treepo.report.trees import read_trees
from treepo.tree import ROOT as TREE_ROOT
from treepo.tree import StopReason, Tree
from treepo.verify.rewards import Answers, ShapedReward

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
EXAMPLE = EXAMPLES / "tree_loop.py"
# Not the whole algorithm in one file, nor an environment together with the provider of its snapshots.
OWN = sorted({*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")} - {EXAMPLE, EXAMPLES / "database.py"})
REWARDS = (ROOT / "docs" / "rewards.md").read_text()


@dataclass(frozen=True)
class ShapedTerse:
    """What a reward of one's own looks like from outside."""

    weight: float = 0.1

    def __call__(self, answers: Answers) -> dict[str, np.ndarray]:
        return {"correct": answers.correct}


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
    monkeypatch.syspath_prepend(str(EXAMPLES))
    args = ["train", "--model.path", str(chain_model), "--out", str(tmp_path / "out")]
    args += ["--branching.use", "own_strategy:LatecomersFirst", "--branching.bonus", "3"]
    assert main([*args, "--train.num_steps", "1", "--train.prompts_per_step", "3", "--eval.num_problems", "0"]) == 0
    recipe = tomllib.loads((tmp_path / "out" / "config.toml").read_text())
    assert recipe["branching"] == {"use": "own_strategy:LatecomersFirst", "bonus": 3}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_an_example_has_at_most_40_lines(path):
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n".join(cell["source"] for cell in json.loads(text)["cells"])
    assert len(text.splitlines()) <= 40


@pytest.fixture
def example(chain_model, tmp_path, monkeypatch, capsys):
    """Runs an example as a script, with a model trained for a moment, and returns what it prints and leaves."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> tuple[str, list[Path]]:
        monkeypatch.setattr(sys, "argv", [name, str(chain_model)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out, sorted(tmp_path.glob("runs/*"))

    return run


def test_own_reward_runs(example):
    """Its parts are logged by the functions' names, and weighed; the built-in task's own reward stays."""
    printed, (run,) = example("own_reward.py")
    parts = {name: float(value) for name, value in re.findall(r"^reward/(\w+): (-?[\d.]+)$", printed, re.MULTILINE)}
    assert parts.keys() == {"correct", "brevity", "near_miss", "mean"}
    assert parts["brevity"] < 0 <= parts["near_miss"]
    assert sum(parts.values()) - parts["mean"] == pytest.approx(parts["mean"], abs=0.002)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert "answers_without_number" in "".join(last)
    assert last["reward/correct"] == pytest.approx(last["accuracy"])


def test_own_estimator_runs(example):
    """The steps' advantages are its own: whitened over tokens, higher where the reward is within a branch."""
    printed, (run,) = example("own_estimator.py")
    assert "step 1: reward" in printed and "step 2: reward" in printed
    for rewards, advantages in re.findall(r"rewards \[(.*?)\]  advantages \[(.*?)\]", printed):
        assert len(rewards.split()) == len(advantages.split()) == 8
    assert tomllib.loads((run / "config.toml").read_text())["credit"]["share"] == 0.3


def test_the_estimator_of_the_example_is_what_it_says():
    """By hand: a branch with the rewards 1 and 0, and one with 0; medians 0.5, 0, and 0 of all."""
    tree = Tree.from_prompt("by hand", np.array([1]), seed=0)
    first = add_segment(tree, TREE_ROOT, [2])
    for token in (3, 4):
        add_segment(tree, first, [token], StopReason.EOS)
    add_segment(tree, TREE_ROOT, [5], StopReason.EOS)
    estimate = runpy.run_path(str(EXAMPLES / "own_estimator.py"), run_name="example")["BranchMedian"](share=0.25)
    assert estimate(tree, np.array([1.0, 0.0, 0.0])) == pytest.approx([1 - 0.125, -0.125, 0.0])


def test_own_strategy_runs(example):
    printed, runs = example("own_strategy.py")
    assert "8 trajectories:" in printed
    assert runs == []


def test_own_task_runs(example):
    """The generator without an end is taken from, and what is held out is measured by the reward alone."""
    printed, (run,) = example("own_task.py")
    assert re.search(r"reward of the last step: [\d.]+, held out: .*eval/reward/sound", printed)
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert "eval/reward/mean" in first and "eval/avg" not in first


def test_the_environment_of_the_example_forks():
    """By deep copy, after any of its actions."""
    maze = runpy.run_path(str(EXAMPLES / "own_environment.py"), run_name="example")["Maze"]
    ways = ["east", "south", "nowhere", "east", "south", "west", "south", "east"]
    for number in range(5):
        check_forks(maze, ways, Problem(f"maze {number}", "", (0,), ""))


def test_the_database_of_the_example_forks(tmp_path, monkeypatch):
    """By snapshots, which are gone at the end; statements that reach for other files are answered with an error."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_shop = runpy.run_path(str(EXAMPLES / "database.py"), run_name="example")["make_shop"]
    statements = [
        "SELECT * FROM items",
        "UPDATE items SET price = 11 WHERE name = 'pear'",
        "DROP TABLE items",
        "nonsense",
    ]
    statements += ["ATTACH 'other.db' AS other", "UPDATE items SET price = price + 10 - price % 10", "SELECT 1"]
    check_forks(make_shop, statements, Problem("shop", "", (0,), ""))
    shop = make_shop()
    shop.reset(Problem("shop", "", (0,), ""))
    assert "not authorized" in shop.step(statements[4]).messages[0]["content"]
    assert shop.step(statements[5]) == treepo.Turn("[]", 1.0, done=True)
    shop.close()
    assert list(tmp_path.iterdir()) == []


def test_the_tool_of_the_example_is_described():
    price = runpy.run_path(str(EXAMPLES / "tools.py"), run_name="example")["price"]
    (schema,) = ToolSet.of((price,), None).schemas
    assert schema["function"]["parameters"]["required"] == ["item"] and price("pear") == 2.5


def test_the_notebook_runs(chain_model, tmp_path, monkeypatch, capsys):
    """Cell by cell as Jupyter does: the last expression of each shows itself as HTML."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert 'MODEL = ""' in sources[0]
    sources[0] = sources[0].replace('MODEL = ""', f"MODEL = {str(chain_model)!r}")
    names: dict[str, object] = {}
    shown = [run_cell(source, names) for source in sources]
    assert ["TreePOTrainer" in shown[0], "Step 3" in shown[2], shown[4]] == [True, True, ""]
    assert all("<" in html for html in shown[:4])
    assert "accuracy on held-out problems:" in capsys.readouterr().out


def run_cell(source: str, names: dict[str, object]) -> str:
    """Execute a cell; returns the HTML of its last line, if that is an object that shows itself."""
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return getattr(value, "_repr_html_", str)()


def test_the_recipe_of_the_strategies_page_resolves():
    page = (EXAMPLE.parent.parent / "docs" / "strategies.md").read_text()
    config = resolve(tomllib.loads(page.split("```toml")[1].split("```")[0]))
    assert config.branching == LogprobBranching("high", temperature=5.0, last_temperature=1.0)
    assert config.fallback == Backtrack("by_reason", max_windows=2)


def test_the_papers_reward_on_the_rewards_page_resolves():
    (recipe,) = [r for r in re.findall(r"```toml\n(.*?)```", REWARDS, re.DOTALL) if "overlong" in r]
    config = resolve(tomllib.loads(recipe), {"tree": {"depth": 14, "segment_len": 512}})
    assert config.reward == ShapedReward(correct=2.0, overlong=1.0, overlong_buffer=512)
    assert config.tree.max_response_tokens == 7168


def test_the_reward_of_ones_own_on_the_rewards_page_runs(chain_model, tmp_path, monkeypatch):
    """From a recipe; its parts are logged and add up, and the kept trees hold their sum."""
    (script,) = [s for s in re.findall(r"```python\n(.*?)```", REWARDS, re.DOTALL) if "class Terse" in s]
    (tmp_path / "my_reward.py").write_text(script)
    (tmp_path / "recipe.toml").write_text(
        '[reward]\nuse = "my_reward:Terse"\nweight = 0.01\n[tree]\nsegment_len = 16\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    args = ["train", str(tmp_path / "recipe.toml"), "--model.path", str(chain_model), "--out", str(tmp_path / "out")]
    args += ["--train.num_steps", "1", "--train.prompts_per_step", "3", "--train.save_trees_every", "1"]
    assert main([*args, "--eval.num_problems", "4"]) == 0
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["reward/words"] < 0
    assert last["reward/correct"] + last["reward/words"] == pytest.approx(last["reward/mean"])
    assert 0 <= last["eval/avg"] <= 1
    kept = read_trees(tmp_path / "out" / "trees" / "step-000001.parquet")
    assert np.mean([k.rewards for k in kept]) == pytest.approx(last["reward/mean"])
    recipe = tomllib.loads((tmp_path / "out" / "config.toml").read_text())
    assert recipe["reward"] == {"use": "my_reward:Terse", "weight": 0.01}


@pytest.mark.parametrize("line", re.findall(r"^treepo train .*$", REWARDS, re.MULTILINE))
def test_the_commands_of_the_rewards_page_are_possible(line, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_reward", types.SimpleNamespace(Terse=ShapedTerse))
    overrides, _ = split_overrides(line.split()[1:])
    assert resolve(BUILT_IN_TASK, overrides).reward != Config().reward


def test_the_rewards_page_has_every_setting():
    for setting in fields(ShapedReward):
        assert re.search(rf"^\|.*`{setting.name}` \(", REWARDS, re.MULTILINE), setting.name


@pytest.mark.parametrize("path", [p for d in ("benchmarks", "experiments") for p in sorted((ROOT / d).glob("*.py"))])
def test_scripts_import_what_there_is(path):
    """Nobody runs the long ones in a test; a name that has moved would only show when somebody does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("treepo."):
            if (node.module or "").startswith("treepo.integrations.trl"):
                pytest.importorskip("trl")
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module

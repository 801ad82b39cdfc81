"""The examples run and stay as short as promised."""

import ast
import importlib
import importlib.util
import json
import re
import sys
import tomllib
import types
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

from treepo.cli.common import split_overrides
from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.config.schema import BUILT_IN_TASK, Config
from treepo.grow.branching import LogprobBranching
from treepo.grow.fallback import Backtrack
from treepo.report.trees import read_trees
from treepo.verify.rewards import Answers, ShapedReward

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "tree_loop.py"
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
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    args = ["train", "--model.path", str(chain_model), "--out", str(tmp_path / "out")]
    args += ["--branching.use", "my_branching:LatecomersFirst", "--branching.bonus", "3"]
    assert main([*args, "--train.num_steps", "1", "--train.prompts_per_step", "3", "--eval.num_problems", "0"]) == 0
    recipe = tomllib.loads((tmp_path / "out" / "config.toml").read_text())
    assert recipe["branching"] == {"use": "my_branching:LatecomersFirst", "bonus": 3}


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
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module

"""`treepo plan`."""

import tomllib

import numpy as np
import pytest

from tests.runs import judge_length, write_sets
from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.errors import SettingError
from treepo.grow import InitialFork, StagedBranching
from treepo.report.trees import KeptTree, write_trees
from treepo.run.plan import plan_for_run
from treepo.tasks.chain_sums import ChainSums
from treepo.tree import Node, StopReason, Tree
from treepo.verify.task import VerifiedTask


@pytest.fixture(autouse=True)
def judged_by_length(monkeypatch):
    for task in (VerifiedTask, ChainSums):
        monkeypatch.setattr(task, "verify", judge_length)


TREE = ["--tree.width", "4", "--tree.depth", "3", "--tree.segment_len", "4"]


def test_a_model_on_problems_and_on_the_built_in_task(chain_model, tmp_path, capfd):
    """What is printed is a recipe, and the same as what --out writes."""
    out = tmp_path / "shape.toml"
    options = [*write_sets(tmp_path), *TREE, "--problems", "6"]
    assert main(["plan", str(chain_model), *options, "--out", str(out)]) == 0
    text = out.read_text()
    config = resolve(tomllib.loads(text))
    assert isinstance(config.branching, StagedBranching) and config.tree.width == config.branching.paths[-1] == 4
    assert config.initial_fork == InitialFork(config.branching.paths[0], config.branching.paths[0])
    assert "From 6 trees" in text and "stage  reached  tokens  seconds  variance   paths" in text
    assert text in capfd.readouterr().out
    assert main(["plan", str(chain_model), *options, "--out", str(out)]) == 2


def test_a_run(chain_model, tmp_path, capsys):
    """By its kept trees and its settings; code that these name is not imported unasked."""
    run = tmp_path / "run"
    options = ["--model.path", str(chain_model), "--eval.num_problems", "0", "--train.num_steps", "1", *TREE]
    assert main(["train", *options, "--train.prompts_per_step", "4", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["plan", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "# From 4 trees" in printed and resolve(tomllib.loads(printed[printed.index("# From") :])).tree.width == 4
    config = run / "config.toml"
    config.write_text(config.read_text().replace('use = "TreePO"', 'use = "nowhere:Mine"'))
    assert main(["plan", str(run)]) == 2
    assert "credit.use: the run names code to be run" in capsys.readouterr().err
    for file in (run / "trees").iterdir():
        file.unlink()
    assert main(["plan", str(run), "--credit.use", "GRPO"]) == 2
    assert "has no trees with rewards" in capsys.readouterr().err


def test_rewards_without_a_variance_are_refused(tmp_path):
    """numpy warned of them, and the plan was a star."""
    (tmp_path / "trees").mkdir()
    tree = Tree.from_prompt("p", np.zeros(1, np.int32), 0)
    for _ in range(2):
        tree.add(Node(0, np.zeros(1, np.int32), np.zeros(1, np.float32), 0, StopReason.EOS))
    for worst in (np.inf, -1e300):
        write_trees(tmp_path / "trees" / "step-000001.parquet", [KeptTree(tree, np.array([worst, 0.0]))], str)
        with pytest.raises(SettingError, match=r"^reward: a plan needs rewards of at most 1e\+100"):
            plan_for_run(resolve({}), tmp_path)

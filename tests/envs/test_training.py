"""Training in an environment, from Python."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treepo
from tests.models import save_tiny_model
from tests.test_docs import documented_metrics
from treepo.config.load import read_recipe
from treepo.report.trees import read_trees

ROWS = [{"question": f"{a}?"} for a in "abcdef"]


class Echo(treepo.CopyFork):
    """Says how many letters it has read, gives a reward for each, and ends after the second turn."""

    def reset(self, problem: Any) -> str:
        self.texts: list[str] = []
        return f"Say more than {problem.prompt}"

    def step(self, assistant_text: str) -> treepo.Turn:
        self.texts.append(assistant_text)
        return treepo.Turn(f"{len(assistant_text)} letters", reward=len(set(assistant_text)), done=len(self.texts) == 2)


def trainer_of(tmp_path: Path, **arguments: Any) -> treepo.TreePOTrainer:
    model = save_tiny_model(tmp_path / "model", chat=True)
    config = treepo.TreePOConfig(
        output_dir=tmp_path / "run",
        tree={"width": 4, "depth": 6, "segment_len": 16},
        environment={"max_observed_tokens": 64},
        max_steps=2,
        prompts_per_step=2,
        eval={"num_problems": 2},
        train={"save_trees_every": 1},
    )
    return treepo.TreePOTrainer(str(model), config=config, train_dataset=ROWS[:4], eval_dataset=ROWS[4:], **arguments)


def test_an_environment_is_trained_in(tmp_path: Path) -> None:
    """Its rewards are what is learned from; trees on disk hold who wrote what."""
    with trainer_of(tmp_path, environment=Echo) as trainer:
        steps = list(trainer.steps())
    last = trainer.state.log_history[-1]
    assert last["reward/environment"] == pytest.approx(last["reward/mean"])
    assert last["turns/max"] == 2 and last["tokens/observed"] > 0 == last["environment/lost"]
    assert last["environment/calls"] > 0 == last["environment/failed_calls"] and last["environment/call_s"] > 0
    assert "eval/reward/environment" in last and np.isfinite(last["update/loss"])
    documented = documented_metrics((Path(__file__).parents[2] / "docs" / "metrics.md").read_text())
    assert [name for name in last if not any(fnmatch(name, pattern) for pattern in documented)] == []
    trees = [tree for step in steps for tree in step.trees]
    assert any(tree.has_observed for tree in trees), "some turn ended"
    kept = [k for file in sorted((tmp_path / "run" / "trees").glob("*.parquet")) for k in read_trees(file)]
    assert sum(k.tree.has_observed for k in kept) == sum(tree.has_observed for tree in trees)
    decode = trainer.processing_class.decode
    assert "letters" in "".join(decode(tree.nodes[i].token_ids) for tree in trees for i in observed(tree))
    recipe = read_recipe(tmp_path / "run" / "config.toml")
    assert recipe["environment"]["factory"] == "python:Echo"


def observed(tree: treepo.Tree) -> list[int]:
    return [i for i, node in enumerate(tree.nodes) if node.observed]


def test_what_an_environment_needs_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(treepo.SettingError, match="environment: must be a class, or something else"):
        trainer_of(tmp_path, environment="Echo()")
    with pytest.raises(treepo.SettingError, match="reward.environment: needs an environment"):
        treepo.TreePOTrainer(config=treepo.TreePOConfig(reward={"environment": 1.0}))
    config = treepo.TreePOConfig(reward={"environment": 0.5})
    trainer = treepo.TreePOTrainer(environment=Echo, train_dataset=[{"prompt": "a"}], config=config)
    assert trainer.config.reward.environment == 0.5, "the config refused it, whatever the trainer was given"


class Broken(Echo):
    """Fails at each step."""

    def step(self, assistant_text: str) -> treepo.Turn:
        raise RuntimeError("the board fell off the table")


def test_trees_that_are_lost_wholly_end_no_run(tmp_path: Path, capsys: pytest.CaptureFixture, caplog: Any) -> None:
    """Of two trees that is no proof that the environment is to blame: the steps are called useless, with the cause."""
    with trainer_of(tmp_path, environment=Broken) as trainer:
        trainer.train()
    last = [metrics for metrics in trainer.state.log_history if "environment/lost" in metrics][-1]
    assert last["environment/lost"] > 0.5 and last["stop/env_error"] == last["environment/lost"]
    said = " ".join((capsys.readouterr().out + caplog.text).split())
    assert "the board fell off the table" in said
    assert "of the trajectories are lost to their environments" in said

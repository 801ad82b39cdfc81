"""Plans that follow a run."""

import signal
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from tests.run.test_resume import SETTINGS
from tests.runs import assert_same_run, judge_length, untimed_metrics, write_sets
from treepo.cli.main import main
from treepo.config.load import resolve, to_toml
from treepo.credit import DrGRPO
from treepo.data.problem import Problem
from treepo.errors import SettingError
from treepo.grow import EvenBranching, GrowthRules, InitialFork, NoFallback, Planned, StagedBranching, TreeShape
from treepo.grow.branching import Level
from treepo.learn.updater import Updater
from treepo.plan.noise import STOPPING, grown_skeletons, skeletons
from treepo.plan.running import RunningPlanner, plan_metrics
from treepo.tree import Tree
from treepo.verify.task import VerifiedTask

SHAPE = TreeShape(width=8, depth=4, segment_len=1)
RULES = GrowthRules(SHAPE, InitialFork(2, 2), EvenBranching(), NoFallback(), STOPPING)


def planner(**settings) -> RunningPlanner:
    return RunningPlanner(RULES, Planned(**settings), DrGRPO(), seed=3, prompts_per_step=16)


def decided_in(tree: Tree, stage: int, rng: np.random.Generator) -> np.ndarray:
    """Rewards of -1 or 1 that the nodes of one stage decide."""
    signs = rng.choice([-1.0, 1.0], size=len(tree.nodes))
    return np.array([signs[tree.path(leaf)[1 + stage]] for leaf in tree.leaves()])


def observe(own: RunningPlanner, stage: int, num_steps: int = 4) -> None:
    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        trees = [grown_skeletons(SHAPE, InitialFork(2, 2), Planned(), NoFallback(), [1.0] * 4, 1)[0] for _ in range(4)]
        trees += skeletons((2, 4, 6, 8), [1.0] * 4) * 16
        own.observe(trees, [decided_in(tree, stage, rng) for tree in trees])


def test_the_shape_follows_what_decides():
    own = planner()
    assert own.plan(1) is None
    observe(own, stage=3)
    plan = own.plan(5)
    assert plan and plan.paths[2] <= 4 and plan.gain > 1.3 and plan.believed > 0.9
    observe(own, stage=0, num_steps=16)
    plan = own.plan(21)
    assert plan and plan.paths[0] > 4 and plan.gain < 1.1
    assert len(own.tables) == own.planned.window


def test_restored_it_plans_the_same():
    own, other = planner(), planner()
    observe(own, stage=2)
    other.restore(own.state())
    one, same = own.plan(5), other.plan(5)
    assert plan_metrics(one) == plan_metrics(same)
    deeper = RunningPlanner(replace(RULES, shape=replace(SHAPE, depth=5)), Planned(), DrGRPO(), 3, 16)
    with pytest.raises(ValueError, match="depth 5"):
        deeper.restore(own.state())


def test_some_problems_explore():
    own = planner(explore=0.25)
    observe(own, stage=3)
    plan = own.plan(5)
    assert plan
    rules = [own.rules_of(plan, 5, Problem(str(i), "", (1,), ground_truth="")) for i in range(400)]
    assert 70 < sum(r is RULES for r in rules) < 130
    assert {r.branching for r in rules if r is not RULES} == {StagedBranching(plan.paths)}


def test_random_levels_are_all_as_likely():
    """Two forks below the first level, at any two of the three boundaries."""
    trees, rng, num = [], np.random.default_rng(0), 300
    for _ in range(num):
        depth, active, forks = 1, 2, []
        while depth < 4:
            level = Level(SHAPE, None, [0] * active, 0, 0, depth)  # pyright: ignore[reportArgumentType]
            total = sum(Planned()(level, rng))
            forks += [depth] if total > active else []
            depth, active = depth + 1, total
        assert active == 8
        trees.append(tuple(forks))
    for pair in ((1, 2), (1, 3), (2, 3)):
        assert trees.count(pair) == pytest.approx(num / 3, abs=4 * np.sqrt(num * 2 / 9))


def test_settings():
    config = resolve({"branching": {"use": "StagedBranching", "paths": [2, 2, 6]}})
    assert config.branching == StagedBranching((2, 2, 6))
    assert resolve(tomllib.loads(to_toml(config))) == config
    assert resolve({"branching": {"use": "Planned", "window": 4}}).branching == Planned(window=4)
    with pytest.raises(SettingError, match="branching.paths: must be numbers"):
        resolve({"branching": {"use": "StagedBranching", "paths": [4, 2]}})


def test_a_run_that_is_stopped_and_resumed_is_the_run_that_was_not(chain_model, tmp_path, monkeypatch):
    """The estimates are part of the checkpoint: the same plans, trees and weights, bit for bit."""
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)
    settings = SETTINGS | {
        "tree.depth": 3,
        "branching.use": "Planned",
        "branching.window": 3,
        "branching.confidence": 0.0,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    options = ["--model.path", str(chain_model), *write_sets(tmp_path), *options]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(["train", *options, "--out", str(whole)]) == 0
    metrics = untimed_metrics(whole)
    assert [("plan/gain" in line) for line in metrics] == [False] * 3 + [True] * 4
    original, calls = Updater.update, []

    def signalled(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Updater, "update", signalled)
    assert main(["train", *options, "--out", str(out)]) == 128 + signal.SIGTERM
    monkeypatch.setattr(Updater, "update", original)
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)

"""Plans that follow a run."""

import signal
import tomllib
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.run.test_resume import SETTINGS
from tests.runs import assert_same_run, judge_length, untimed_metrics, write_sets
from treepo.cli.main import main
from treepo.config.load import resolve, to_toml
from treepo.credit import DrGRPO
from treepo.data.problem import Problem
from treepo.distributed import DistContext
from treepo.engine.base import SamplingParams
from treepo.engine.scripted import ScriptedEngine
from treepo.errors import SettingError
from treepo.grow import (
    Backtrack,
    EvenBranching,
    GrowthRules,
    InitialFork,
    NoFallback,
    Planned,
    StagedBranching,
    TreeShape,
)
from treepo.grow.branching import Level
from treepo.learn.updater import Updater
from treepo.plan.components import Components
from treepo.plan.noise import STOPPING, grown_skeletons, mean_tokens, skeletons
from treepo.plan.running import PlannedSampler, RunningPlanner, plan_metrics
from treepo.report.trees import read_trees
from treepo.run.task import check_trainable
from treepo.tree import Tree
from treepo.verify.task import VerifiedTask

BUDGET = 320
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


def test_stars_alone_make_no_plan():
    """They do not tell stages apart, which then counted as alike: a tree was planned, which all samples believed in."""
    own, rng = planner(start=2), np.random.default_rng(0)
    for _ in range(8):
        trees = skeletons((8, 8, 8, 8), [1.0] * 4) * 16
        own.observe(trees, [decided_in(tree, 3, rng) for tree in trees])
    assert own.plan(9) is None


def test_trees_are_stars_until_there_is_a_plan():
    """They all explored, in pairs from the prompt on: on a task that is decided at once a run began 6 points behind."""
    own = planner(explore=1e-9, start=3)
    observe(own, stage=0, num_steps=2)
    assert own.plan(3) is None
    rules = own.rules_of(None, 3, Problem("0", "", (1,), ground_truth=""))
    assert (rules.initial_fork, rules.branching) == (InitialFork(8, 8), StagedBranching((8,)))


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


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ("tree.depth", {"tree": {"depth": 1}}),
        ("tree.num_children", {"tree": {"num_children": 1}}),
        ("initial_fork.low", {"initial_fork": {"low": 8, "high": 8}}),
        ("initial_fork.low", {"tree": {"width": 2}}),
    ],
)
def test_settings_that_leave_nothing_to_plan_are_refused(path, section):
    """They grew stars for ever, without a word. Where nothing is trained they do: `treepo eval RUN --samples 2` of a
    run that plans was refused, since its trees are to have two paths."""
    config = resolve({"branching": {"use": "Planned"}}, section)
    with pytest.raises(SettingError) as error:
        check_trainable(config)
    assert error.value.path == path


@pytest.mark.parametrize(("key", "value"), [("window", 3), ("explore", 0)])
def test_settings_that_never_make_a_plan_are_refused(key, value):
    with pytest.raises(SettingError, match=f"branching.{key}"):
        resolve({"branching": {"use": "Planned", key: value}})


def sampler(**settings) -> PlannedSampler:
    return PlannedSampler(ScriptedEngine(lambda ids, seed: (0, 0.0)), planner(**settings), SamplingParams())


def test_a_budget_of_tokens_buys_problems(caplog):
    """Trees of 8 paths and 4 stages of one token: a star has 32 tokens, whatever explores and whatever the budget is,
    so that it buys budget / 32 problems, and none is passed over."""
    own = sampler(tokens_per_step=1000, explore=0)
    assert own.begin_step(1) == {} and own.problem_range(16) == (16, 0)
    observe(own.planner, stage=0)
    num_taken = own.planner.num_taken
    assert num_taken == 4 * 20
    metrics = own.begin_step(5)
    assert metrics["plan/is_star"] and metrics["plan/tokens_per_tree"] == pytest.approx(32)
    assert metrics["plan/problems"] == 31
    assert own.problem_range(16) == (31, num_taken) and not caplog.text
    for budget, count in ((10, 1), (10_000, 8 * 16)):
        own.planner.planned = Planned(tokens_per_step=budget, explore=0)
        own._warned.clear()
        assert [own.begin_step(step)["plan/problems"] for step in (6, 7)] == [count, count]
        assert own.problem_range(16) == (count, num_taken)
    assert caplog.text.count("pays for 0.3 trees") == caplog.text.count("pays for 312.5 trees") == 1
    restored = sampler(tokens_per_step=1000, explore=0)
    restored.planner.restore(own.planner.state())
    assert restored.begin_step(5) == metrics and restored.problem_range(16) == (31, num_taken)


def test_a_run_without_a_plan_says_so(caplog):
    """Where a step has one problem, an eighth of which explore, it grew stars for ever without a word."""
    own = sampler(window=4, tokens_per_step=10)
    for step in range(1, 8):
        assert own.begin_step(step) == {}
        own.observe(skeletons((8, 8, 8, 8), [1.0] * 4), [np.arange(8.0)])
    assert caplog.text.count("raise branching.explore") == 1
    # That it was said keeps nothing else from being said.
    observe(own.planner, stage=0)
    own.begin_step(12)
    assert caplog.text.count("raise branching.explore") == caplog.text.count("pays for 0.3 trees") == 1


def test_fallbacks_and_paths_that_end_early_cost_what_is_predicted():
    """Trees of other seeds, of every kind that a step may have, decode what is predicted, within 5%."""
    reached, tokens = np.array([1.0, 0.9, 0.5, 0.2]), np.array([3.0, 4.0, 2.0, 5.0])
    known = Components(np.ones(4), np.ones(4), tokens, reached)
    for fork, branching in ((8, StagedBranching((8,))), (2, StagedBranching((2, 2, 2, 8))), (2, Planned())):
        rules = replace(RULES, initial_fork=InitialFork(fork, fork), branching=branching, fallback=Backtrack())
        trees = grown_skeletons(SHAPE, rules.initial_fork, branching, Backtrack(), reached, 264)[64:]
        nodes = [len(tree.path(i)) - 2 for tree in trees for i in range(1, len(tree.nodes))]
        assert mean_tokens(rules, known) == pytest.approx(tokens[nodes].sum() / len(trees), rel=0.05)


@dataclass(frozen=True)
class Both(DistContext):
    """What all_reduce gives a process beside one that has had the same trees."""

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        return 2 * values


def test_two_processes_plan_what_one_does():
    one, two = planner(tokens_per_step=700), planner(tokens_per_step=700)
    two.processes = Both()
    trees = skeletons((2, 4, 6, 8), [1.0] * 4) * 6
    rewards = [decided_in(tree, 3, np.random.default_rng(0)) for tree in trees]
    for _ in range(4):
        one.observe(trees * 2, rewards * 2)
        two.observe(trees, rewards)
    assert one.num_taken == two.num_taken == 48
    np.testing.assert_allclose(one.tables, two.tables)
    assert one.tokens_per_tree(one.plan(5)) == pytest.approx(two.tokens_per_tree(two.plan(5)))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"dynamic_sampling": {"max_rounds": 2}}, "needs dynamic_sampling.max_rounds = 1"),
        ({"train": {"num_epochs": 2}}, "needs train.num_steps"),
        ({"tree": {"token_budget": 500}}, "needs trees of tree.width"),
    ],
)
def test_what_a_budget_does_not_go_with_is_refused(section, message):
    with pytest.raises(SettingError, match=f"branching.tokens_per_step: {message}"):
        resolve({"branching": {"use": "Planned", "tokens_per_step": 100}} | section)


def test_a_run_that_is_stopped_and_resumed_is_the_run_that_was_not(chain_model, tmp_path, monkeypatch):
    """The estimates are part of the checkpoint: the same plans, problems, trees and weights, bit for bit. Steps have as
    many problems as their budget of tokens buys, and each pass over the ten problems has each once. (The answers become
    longer from step to step, which no plan foresees.)"""
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)
    settings = SETTINGS | {
        "tree.depth": 3,
        "branching.use": "Planned",
        "branching.window": 3,
        "branching.start": 2,
        "branching.explore": 0.9,
        "branching.confidence": 0.0,
        "branching.tokens_per_step": BUDGET,
        "train.save_trees_every": 1,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    options = ["--model.path", str(chain_model), *write_sets(tmp_path), *options]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(["train", *options, "--out", str(whole)]) == 0
    metrics = untimed_metrics(whole)
    assert [("plan/gain" in line) for line in metrics] == [False] * 3 + [True] * 4
    sizes = [m["problems/grown"] for m in metrics[1:]]
    assert sizes == [4, 4, *(m["plan/problems"] for m in metrics[3:])] and set(sizes) > {4}
    assert 0.5 < sum(m["tokens/decoded"] for m in metrics[3:]) / (4 * BUDGET) < 2
    kept = [one for path in sorted((whole / "trees").glob("*.parquet")) for one in read_trees(path)]
    asked = [one.tree.problem_id for one in kept]
    assert len(asked) == sum(sizes) >= 20 and len(set(asked[:10])) == len(set(asked[10:20])) == 10
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

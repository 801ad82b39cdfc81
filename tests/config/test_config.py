"""Settings: recipes, overrides, and what is told about errors."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from treepo.bench.settings import RolloutBenchConfig
from treepo.cli.common import split_overrides
from treepo.config.help import setting_docs
from treepo.config.load import read_recipe, resolve, resolve_as, to_toml
from treepo.config.schema import BUILT_IN_TASK, Config
from treepo.credit.group import GRPO
from treepo.credit.segment import SPO
from treepo.credit.subgroup import TreePO
from treepo.grow.shape import TreeShape
from treepo.learn.losses import GSPO
from treepo.tree import Tree
from treepo.verify.rewards import ShapedReward

pytestmark = pytest.mark.quick

RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True)
class SignOfReward:
    """An estimator of one's own, as a user would write it."""

    per_node: ClassVar[bool] = False

    scale: float = 1.0
    whiten: bool = False

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        return self.scale * np.sign(rewards)


def test_the_treepo_recipe_is_what_runs_without_a_recipe():
    assert resolve(read_recipe(RECIPES / "chain_sums_treepo.toml")) == resolve(BUILT_IN_TASK)


def test_the_two_recipes_differ_only_in_trees_and_credit():
    treepo, grpo = (resolve(read_recipe(RECIPES / f"chain_sums_{name}.toml")) for name in ("treepo", "grpo"))
    assert grpo.credit == GRPO()
    assert grpo.tree == TreeShape(8, depth=1, segment_len=128, num_children=8)
    assert treepo.tree.max_response_tokens == grpo.tree.max_response_tokens
    for section in ("model", "data", "stopping", "engine", "loss", "optim", "train", "eval"):
        assert getattr(treepo, section) == getattr(grpo, section)


@pytest.mark.parametrize("name", ["chain_sums_treepo", "chain_sums_grpo"])
def test_resolved_settings_are_a_recipe_of_themselves(name):
    config = resolve(read_recipe(RECIPES / f"{name}.toml"), {"model": {"path": "a b\\c"}, "train": {"seed": 7}})
    assert resolve(tomllib.loads(to_toml(config))) == config


def test_later_layers_win_key_by_key():
    config = resolve({"tree": {"width": 4, "depth": 3}}, {"tree": {"width": 16}})
    assert (config.tree.width, config.tree.depth, config.tree.segment_len) == (16, 3, 128)


def test_choosing_another_class_drops_the_settings_of_the_first():
    config = resolve({"credit": {"use": "TreePO", "whiten": False}}, {"credit": {"use": "GRPO", "eps": 1e-4}})
    assert config.credit == GRPO(eps=1e-4)
    assert resolve({"credit": {"use": "GRPO", "eps": 0.5}}, {"credit": {"use": "TreePO"}}).credit == TreePO()


@dataclass(frozen=True)
class HalfALoss:
    """Called as a loss is, but it cannot tell what it clips."""

    def __call__(self, inputs):
        return inputs.policy_logprobs.sum()


def test_one_number_or_text_stands_for_several():
    """Without brackets 5 and 99 were "no valid tuple"; a number among texts is one as it is written in a file."""
    data = resolve({"data": {"train": "a.jsonl", "weights": 5, "only_field": "level", "only": 99}}).data
    assert (data.train, data.weights, data.only) == (("a.jsonl",), (5.0,), ("99",))
    assert resolve({"data": {"only_field": "level", "only": [3, "4"]}}).data.only == ("3", "4")
    assert resolve_as(RolloutBenchConfig, {"grid": {"widths": 4}}).grid.widths == (4,)


def test_a_class_that_lacks_a_method_is_named(monkeypatch):
    """It used to fail in the first update."""
    monkeypatch.setitem(__import__("sys").modules, "my_loss", __import__("types").SimpleNamespace(Half=HalfALoss))
    with pytest.raises(ValueError, match="loss.use: 'my_loss:Half' lacks num_clipped, per_trajectory"):
        resolve({"loss": {"use": "my_loss:Half"}})


def test_credit_of_nodes_and_a_loss_of_trajectories_do_not_go_together():
    """GSPO weighs whole trajectories: the two settings are named, before anything is loaded."""
    for use in ("SPO", "TreeRL", "ValueDifference"):
        assert resolve({"credit": {"use": use}, "loss": {"use": "CISPO"}}).credit.per_node
        with pytest.raises(ValueError, match=f"loss.use: GSPO needs .* credit.use = '{use}' gives one per node"):
            resolve({"credit": {"use": use}, "loss": {"use": "GSPO"}})
    with pytest.raises(ValueError, match="loss.use: GSPO"):
        Config(credit=SPO(), loss=GSPO())
    assert not resolve({"loss": {"use": "GSPO"}}).credit.per_node


def test_a_class_of_ones_own_is_named_by_module(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "my_credit", __import__("types").SimpleNamespace(Mine=SignOfReward))
    config = resolve({"credit": {"use": "my_credit:Mine", "scale": 2}})
    assert config.credit == SignOfReward(scale=2.0)
    assert tomllib.loads(to_toml(config))["credit"]["use"] == f"{SignOfReward.__module__}:SignOfReward"


def test_a_reward_that_is_never_negative_goes_with_maxrl():
    """And a buffer that nobody uses may be longer than the response."""
    resolve({"credit": {"use": "MaxRL"}, "reward": {"format": 0.5}})
    assert resolve({"tree": {"depth": 1, "segment_len": 8}}).reward == ShapedReward(overlong_buffer=512)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trees": {"width": 4}}, "trees: unknown section; there are model, data"),
        ({"tree": {"widht": 4}}, "tree.widht: unknown setting; TreeShape has width, depth"),
        ({"tree": 8}, "tree: expected a table of settings, got 8"),
        ({"tree": {"width": "many"}}, "tree.width: .*integer.*got 'many'"),
        ({"tree": {"width": 0}}, "tree.width: must be within 1..1000000, got 0"),
        ({"tree": {"depth": 2, "segment_len": 8, "max_response_len": 17}}, "tree.max_response_len: .* 16, got 17"),
        ({"initial_fork": {"low": 3, "high": 2}}, "initial_fork.high: must be at least low = 3, got 2"),
        ({"credit": {"use": "grpo"}}, "credit.use: no 'grpo'; there are DrGRPO, .*, GRPO, .*, ValueDifference$"),
        ({"loss": {"use": "DAPO"}}, "loss.use: no 'DAPO'; there are CISPO, GSPO, PPO, REINFORCE$"),
        ({"credit": {"use": "nowhere.at_all:X"}}, "credit.use: cannot find 'nowhere.at_all:X'"),
        ({"credit": {"use": "whiten"}}, "credit.use: no 'whiten'; there are DrGRPO, "),
        ({"credit": {"use": "treepo.credit:whiten"}}, "credit.use: 'treepo.credit:whiten' is not a dataclass"),
        ({"credit": {"use": "LeafEstimator"}}, "credit.use: no 'LeafEstimator'; there are DrGRPO, "),
        ({"credit": {"leaves": "unbiased"}}, "credit.leaves: .*needs whiten = false"),
        ({"credit": {"with_root": False}, "tree": {"depth": 1}}, "credit.with_root: false needs tree.depth .* got 1"),
        ({"tree": {"use": "TreeShape"}}, "tree.use: this section has one class"),
        ({"stopping": {"answer": "boxes"}}, "stopping.answer: .*'answer_and_eos'.*got 'boxes'"),
        ({"reward": {"format": -0.1}}, "reward.format: must not be negative, got -0.1"),
        ({"reward": {"overlong_buffer": -1}}, "reward.overlong_buffer: must be at least 1, got -1"),
        ({"reward": {"overlong": 1, "overlong_buffer": 1025}}, "reward.overlong_buffer: .* 1..1024, .* got 1025"),
        (
            {"reward": {"overlong": 1}, "tree": {"depth": 2, "segment_len": 8}},
            "reward.overlong_buffer: .* 1..16.* got 512",
        ),
        ({"reward": {"length_neutral": True, "length": 1}}, "reward.length_neutral: takes back "),
        ({"reward": {"use": "Answers"}}, "reward.use: no 'Answers'; there are ShapedReward$"),
        ({"reward": {"length": 1}, "credit": {"use": "MaxRL"}}, "credit.use: MaxRL needs .* reward.length"),
        ({"optim": {"lr": -1.0}}, "optim.lr: must be positive, got -1.0"),
        ({"optim": {"betas": [0.9]}}, "optim.betas"),
        ({"optim": {"lr": float("nan")}}, "optim.lr: must be a finite number, got nan"),
        ({"credit": {"use": "GRPO", "eps": float("inf")}}, "credit.eps: must be a finite number, got inf"),
        ({"credit": {"use": "GRPO", "eps": 0.0}}, "credit.eps: must be positive, got 0.0"),
        ({"tree": {"width": True}}, "tree.width: .*got True"),
        ({"tree": {"width": "4"}}, "tree.width: .*got '4'"),
        ({"optim": {"lr": True}}, "optim.lr: .*got True"),
        ({"optim": {"weight_decay": -1.0}}, "optim.weight_decay: must not be negative, got -1.0"),
        ({"credit": {"use": ".x:Y"}}, "credit.use: cannot find '.x:Y'"),
        ({"credit": {"use": "treepo.tree:Tree"}}, "credit.use: 'treepo.tree:Tree' is called with"),
        ({"branching": {"use": "InitialFork"}}, "branching.use: no 'InitialFork'; there are EvenBranching, "),
        ({"branching": {"use": "treepo.grow:InitialFork"}}, "branching.use: '.*:InitialFork' is called with .*'shape'"),
        ({"stopping": {"use": "TreeShape"}}, "stopping.use: no 'TreeShape'; there are StopRules$"),
        ({"loss": {"use": "LossInputs"}}, "loss.use: no 'LossInputs'; there are "),
        ({"aggregation": {"use": "ConstantLength"}}, "aggregation.length: ConstantLength needs a value"),
        ({"aggregation": {"use": "ConstantLength", "length": 0}}, "aggregation.length: must be at least 1, got 0"),
        ({"penalties": {"kl_estimator": "k4"}}, "penalties.kl_estimator: .*'k1'.*got 'k4'"),
        ({"lora": {"rank": -1}}, "lora.rank: must be within 0..10000, got -1"),
        ({"train": {"autocast": "int8"}}, "train.autocast: .*got 'int8'"),
        ({"loss": {"clip_low": 1.5}}, "loss.clip_low: must lie between 0 and 1, got 1.5"),
        ({"train": {"num_steps": 1.5}}, "train.num_steps: .*got 1.5"),
        (
            {"data": {"train": ["a", "b"], "weights": [1, -1]}},
            r"data.weights: must be positive numbers, got \[1.0, -1.0\]",
        ),
        (
            {"data": {"train": ["a", "b"], "weights": [1, 0]}},
            r"data.weights: must be positive numbers, got \[1.0, 0.0\]",
        ),
        ({"data": {"train": ["a", "b"], "weights": [1, float("nan")]}}, "data.weights: must be a finite number.* nan"),
        ({"data": {"train": ["a", "b"], "weights": [1, float("inf")]}}, "data.weights: must be a finite number.* inf"),
        (
            {"data": {"train": ["a", "b"], "weights": [1, 20000]}},
            "data.weights: must each be at least 1/10000 of their",
        ),
        ({"data": {"train": ["a", "b"], "weights": [1, 10**400]}}, "data.weights: must be within"),
        ({"loss": {"clip_high": 1e39}}, r"loss.clip_high: must be within -1e\+30..1e\+30"),
        ({"initial_fork": {"high": 2**63}}, "initial_fork.high: must be within"),
        ({"aggregation": {"use": "ConstantLength", "length": 10**400}}, "aggregation.length: must be within"),
        ({"tree": {"width": 1 << 20_000}}, "tree.width: must be within"),
        ({"servers": {"folder": "a\0b"}}, "servers.folder: holds a null character"),
        ({"data": {"train": ["a"], "weights": "much"}}, "data.weights: .*valid number.*got 'much'"),
        ({"data": {"train": ["a"], "weights": True}}, "data.weights: .*valid number.*got True"),
        ({"data": {"only_field": "a", "only": 1.5}}, "data.only: .*valid string.*got 1.5"),
        ({"data": {"only_field": "a", "only": True}}, "data.only: .*valid string.*got True"),
        ({"engine": {"temperature": 0}}, "engine.temperature: .*greater than or equal to 0.01, got 0"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_value(settings, message):
    """Numbers that torch, numpy or Python cannot compute with were bugs with a traceback, in the first update."""
    with pytest.raises(ValueError, match=message) as error:
        resolve(settings)
    assert "\n" not in str(error.value)


def test_unreadable_recipes_are_named(tmp_path):
    (tmp_path / "bad.toml").write_text("[tree\nwidth = 4")
    for path in (tmp_path / "missing.toml", tmp_path / "bad.toml", tmp_path):
        with pytest.raises(ValueError, match=f"recipe: cannot read '{path}'"):
            read_recipe(path)


def test_overrides_are_read_as_toml_and_else_as_text():
    args = ["train", "r.toml", "--tree.width", "16", "--optim.lr=1e-4", "--optim.betas", "[0.5, 0.6]"]
    args += ["--model.path", "some/dir", "--data.answer-after", "####", "--credit.whiten", "false", "--out", "o"]
    overrides, rest = split_overrides(args)
    assert rest == ["train", "r.toml", "--out", "o"]
    assert overrides == {
        "tree": {"width": 16},
        "optim": {"lr": 1e-4, "betas": [0.5, 0.6]},
        "model": {"path": "some/dir"},
        "data": {"answer_after": "####"},
        "credit": {"whiten": False},
    }


def test_every_setting_is_documented():
    """Also those that a section's class inherits."""
    for section in vars(Config()).values():
        assert setting_docs(type(section)).keys() == set(vars(section)), type(section)

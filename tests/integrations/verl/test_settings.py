"""The settings of trees in verl's configuration: what they default to, and what is refused before anything starts."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
from verl.utils.import_utils import load_class_from_fqn

from treepo.credit import SPO, TreePO
from treepo.errors import SettingError
from treepo.integrations.verl import TreeAgentLoopManager, TreePPOTrainer
from treepo.integrations.verl.settings import tree_settings
from treepo.integrations.verl.trainer import MANAGER

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

REFUSED = [
    ("algorithm.adv_estimator", ["algorithm.adv_estimator=gae"]),
    ("algorithm.use_kl_in_reward", ["algorithm.use_kl_in_reward=True"]),
    ("actor_rollout_ref.rollout.full_determinism", ["actor_rollout_ref.rollout.full_determinism=True"]),
    ("actor_rollout_ref.rollout.name", ["actor_rollout_ref.rollout.name=sglang"]),
    (
        "actor_rollout_ref.rollout.agent.default_agent_loop",
        ["actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"],
    ),
    ("reward.reward_model.enable_resource_pool", ["reward.reward_model.enable=True"]),
    ("treepo.tree.segment_len", ["+treepo.tree.depth=2", "+treepo.tree.segment_len=3"]),
    ("treepo.tree.depth", ["+treepo.tree.depth=0"]),
    ("treepo.tree.dept", ["+treepo.tree.dept=3"]),
    ("treepo.credit.use", ["+treepo.credit.use=GAE"]),
    ("treepo.stopping.answer", ["+treepo.stopping.answer=answer"]),
    ("treepo.credit.with_root", ["+treepo.credit.with_root=false", "+treepo.tree.depth=1"]),
    ("treepo.trees", ["+treepo.trees.depth=3"]),
]


@pytest.mark.parametrize(("path", "overrides"), REFUSED)
def test_refused_with_the_setting_to_change(make_config, path, overrides):
    with pytest.raises(SettingError) as error:
        TreePPOTrainer(make_config(*overrides))
    assert error.value.path == path


def test_defaults_fill_the_longest_response(make_config):
    """rollout.n leaves, and as many segments as reach response_length."""
    config = make_config("actor_rollout_ref.rollout.response_length=100")
    settings = tree_settings(config)
    shape = settings.shape(config.actor_rollout_ref.rollout)
    assert (shape.width, shape.depth, shape.segment_len, shape.max_response_len) == (4, 8, 13, 100)
    assert settings.credit == TreePO()
    assert isinstance(tree_settings(make_config("+treepo.credit.use=SPO")).credit, SPO)


def test_one_setting_turns_trees_on(make_config):
    """trainer_mode=treepo names the trainer, which names the manager and is verl's synchronous one everywhere else."""
    config: Any = make_config()
    assert isinstance(config, DictConfig)
    cls = get_trainer_cls("treepo")
    assert cls is TreePPOTrainer and issubclass(cls, PPOTrainerSync)
    trainer = cls(config)
    assert trainer.trainer_mode == "sync"
    assert type(trainer.replay_buffer).__name__ == "ReplayBuffer"
    name = config.actor_rollout_ref.rollout.agent.agent_loop_manager_class
    assert load_class_from_fqn(name, "AgentLoopManager") is TreeAgentLoopManager
    assert name == MANAGER


def test_verl_finds_the_trainer_by_its_entry_point(tmp_path):
    """`import verl` alone registers it, in any process, while verl is still being imported."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    [(group, points)] = project["entry-points"].items()
    folder = tmp_path / "found-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: found\nVersion: 1\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    code = "import verl; from verl.trainer.ppo.v1 import get_trainer_cls; print(get_trainer_cls('treepo').__name__)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env)
    assert done.stdout.split()[-1:] == ["TreePPOTrainer"], done.stderr


def test_the_recipes_of_the_docs_are_settings_of_verl_and_of_trees(make_config):
    """verl's composition refuses a name that it does not know, and `tree_settings` what trees cannot do."""
    text = (Path(__file__).parents[3] / "docs" / "from_verl.md").read_text()
    commands = re.findall(r"python -m verl\.trainer\.main_ppo((?:.*\\\n)*.*)\n", text)
    assert len(commands) == 2
    for command in commands:
        config = make_config(*command.replace("\\\n", " ").split())
        assert tree_settings(config).shape(config.actor_rollout_ref.rollout).width == 8

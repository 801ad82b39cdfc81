"""TreePO: post-training language models with reinforcement learning on trees of answers."""

# Not imported from typing: nothing is imported here before `python -m treepo` has set the path right.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from treepo import credit, envs, grow, verify
    from treepo.config.python import TreePOConfig
    from treepo.config.schema import Config
    from treepo.envs.base import CopyFork, Environment, Turn
    from treepo.envs.replay import ReplayFork
    from treepo.errors import SettingError
    from treepo.trainer import TrainerCallback, TreePOTrainer
    from treepo.tree import Node, StopReason, Trajectory, Tree
    from treepo.verify.judge import LLMJudge
    from treepo.verify.reward_model import RewardModel

__version__ = "0.1.0"

__all__ = [
    "Config",
    "CopyFork",
    "Environment",
    "LLMJudge",
    "Node",
    "ReplayFork",
    "RewardModel",
    "SettingError",
    "StopReason",
    "TrainerCallback",
    "Trajectory",
    "Tree",
    "TreePOConfig",
    "TreePOTrainer",
    "Turn",
    "__version__",
    "credit",
    "envs",
    "grow",
    "verify",
]

_HOMES = {
    "Config": "treepo.config.schema",
    "CopyFork": "treepo.envs.base",
    "Environment": "treepo.envs.base",
    "LLMJudge": "treepo.verify.judge",
    "Node": "treepo.tree",
    "ReplayFork": "treepo.envs.replay",
    "RewardModel": "treepo.verify.reward_model",
    "SettingError": "treepo.errors",
    "StopReason": "treepo.tree",
    "TrainerCallback": "treepo.trainer",
    "Trajectory": "treepo.tree",
    "Tree": "treepo.tree",
    "TreePOConfig": "treepo.config.python",
    "TreePOTrainer": "treepo.trainer",
    "Turn": "treepo.envs.base",
}
"""The module of each public name; folders of the package are loaded by their own names."""


def __getattr__(name: str) -> object:
    """Load a public name on first use: `import treepo` alone loads neither numpy nor torch."""
    from importlib import import_module  # noqa: PLC0415 - see above

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"treepo.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

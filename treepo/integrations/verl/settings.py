"""The settings of trees beside verl's, under `treepo` in its configuration."""

# pyright: reportMissingImports=false

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from treepo.config.load import resolve_as
from treepo.credit import Estimator, TreePO
from treepo.errors import SettingError
from treepo.grow import TreeShape
from treepo.integrations.growth import GrowthSections, TreeSize

VERLS_OWN: dict[str, tuple[object, str]] = {
    "algorithm.adv_estimator": ("grpo", "the advantages are those of treepo.credit, which take its place"),
    "algorithm.use_kl_in_reward": (False, "trees are credited before the reference scores; use actor.use_kl_loss"),
    "actor_rollout_ref.rollout.name": ("vllm", "the requests of a tree have seeds, in the form that vLLM takes"),
    "actor_rollout_ref.rollout.full_determinism": (False, "vLLM then gets one request id for all segments of a tree"),
    "actor_rollout_ref.rollout.agent.default_agent_loop": ("single_turn_agent", "a tree is of one turn"),
}
"""Settings of verl that trees allow one value of, and why."""


NAMES = {
    "width": "actor_rollout_ref.rollout.n",
    "max_response_len": "actor_rollout_ref.rollout.response_length",
    **{name: f"treepo.tree.{name}" for name in ("depth", "segment_len", "num_children")},
}
"""The settings for the size of a tree."""


@dataclass(frozen=True)
class TreeSettings(GrowthSections):
    """The sections under `treepo`, named as in a recipe."""

    tree: TreeSize = TreeSize()
    credit: Estimator = TreePO()

    def shape(self, rollout: Any) -> TreeShape:
        """The size of trees under verl's settings of rollouts; raises SettingError."""
        return self.tree.shape(rollout.n, rollout.response_length, NAMES)


def tree_settings(config: DictConfig) -> TreeSettings:
    """The settings of trees in verl's whole configuration; raises SettingError for those that do not go together."""
    for path, (value, reason) in VERLS_OWN.items():
        if (given := OmegaConf.select(config, path)) != value:
            raise SettingError(path, f"trees need {value!r}: {reason}", given)
    reward_model = config.reward.reward_model
    if reward_model.enable and not reward_model.enable_resource_pool:
        message = "must be true: a tree is credited when it is grown, a reward model on the same GPUs scores later"
        raise SettingError("reward.reward_model.enable_resource_pool", message, False)
    given = OmegaConf.to_container(OmegaConf.create(config.get("treepo") or {}), resolve=True)
    try:
        settings = resolve_as(TreeSettings, given)  # pyright: ignore[reportArgumentType]
        settings.check("credit", settings.credit, settings.tree.depth)
    except SettingError as error:
        raise error.within("treepo") from error
    settings.shape(config.actor_rollout_ref.rollout)
    return settings

"""The settings of trees beside verl's, under `treepo` in its configuration."""

# pyright: reportMissingImports=false

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from treepo.config.load import resolve_as
from treepo.credit import Estimator, TreePO
from treepo.data.problem import Decode
from treepo.errors import SettingError
from treepo.grow import (
    Backtrack,
    Branching,
    EvenBranching,
    Fallback,
    GrowthRules,
    InitialFork,
    Stopping,
    StopRules,
    TreeShape,
)

NO_ANSWERS = StopRules(answer="never")
"""verl's rewards do not say where an answer ends."""

VERLS_OWN: dict[str, tuple[object, str]] = {
    "algorithm.adv_estimator": ("grpo", "the advantages are those of treepo.credit, which take its place"),
    "algorithm.use_kl_in_reward": (False, "trees are credited before the reference scores; use actor.use_kl_loss"),
    "actor_rollout_ref.rollout.name": ("vllm", "the requests of a tree have seeds, in the form that vLLM takes"),
    "actor_rollout_ref.rollout.full_determinism": (False, "vLLM then gets one request id for all segments of a tree"),
    "actor_rollout_ref.rollout.agent.default_agent_loop": ("single_turn_agent", "a tree is of one turn"),
}
"""Settings of verl that trees allow one value of, and why."""


@dataclass(frozen=True)
class TreeSize:
    """How large a tree grows, besides `rollout.n`, its leaves, and `rollout.response_length`, the longest path."""

    depth: int = 8
    """Most segments in a response."""

    segment_len: int | None = None
    """Most tokens of a segment; response_length / depth, rounded up, if not given."""

    num_children: int = 2
    """Children of a path when it forks."""


@dataclass(frozen=True)
class TreeSettings:
    """The sections under `treepo`, named as in a recipe."""

    tree: TreeSize = TreeSize()
    initial_fork: InitialFork = InitialFork()
    branching: Branching = EvenBranching()
    fallback: Fallback = Backtrack()
    stopping: Stopping = NO_ANSWERS
    credit: Estimator = TreePO()

    def shape(self, rollout: Any) -> TreeShape:
        """The size of trees under verl's settings of rollouts; raises SettingError."""
        longest, size = rollout.response_length, self.tree
        segment_len = size.segment_len or -(-longest // max(size.depth, 1))
        try:
            return TreeShape(rollout.n, size.depth, segment_len, size.num_children, max_response_len=longest)
        except SettingError as error:
            if error.path == "max_response_len":
                message = f"times depth ({size.depth}) must reach rollout.response_length = {longest}"
                raise SettingError("treepo.tree.segment_len", message, segment_len) from error
            name = "actor_rollout_ref.rollout.n" if error.path == "width" else f"treepo.tree.{error.path}"
            raise SettingError(name, error.message, error.value) from error

    def rules(self, rollout: Any, decode: Decode) -> GrowthRules:
        """How trees grow."""
        return GrowthRules(
            shape=self.shape(rollout),
            initial_fork=self.initial_fork,
            branching=self.branching,
            fallback=self.fallback,
            stopping=self.stopping,
            decode=decode,
        )


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
    except SettingError as error:
        raise error.within("treepo") from error
    if isinstance(settings.stopping, StopRules) and settings.stopping.answer != "never":
        message = "must be 'never': verl's rewards do not say where an answer ends; use stop_strings"
        raise SettingError("treepo.stopping.answer", message, settings.stopping.answer)
    shape = settings.shape(config.actor_rollout_ref.rollout)
    if isinstance(settings.credit, TreePO) and not settings.credit.with_root and shape.depth == 1:
        raise SettingError("treepo.credit.with_root", "false needs a depth of at least 2: no group but the root's")
    return settings

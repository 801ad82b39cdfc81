"""verl's synchronous trainer with the advantages of trees."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

from treepo.credit.base import whiten_with, whitening_moments
from treepo.integrations.verl.settings import tree_settings

MANAGER = "treepo.integrations.verl.TreeAgentLoopManager"
TREE_METRICS = ("decoded_tokens", "completion_tokens", "fallbacks")


@register_trainer("treepo")
class TreePPOTrainer(PPOTrainerSync):
    """PPOTrainerSync over trees: `trainer.v1.trainer_mode=treepo`, with the settings of trees under `treepo`.

    Metrics besides verl's: trees/decoded_tokens, trees/completion_tokens (shared ones counted for each response) and
    trees/fallbacks, per tree; trees/frac_reward_zero_std; trees/advantages/raw_mean and raw_std where advantages are
    whitened. Raises SettingError.
    """

    def __init__(self, config: DictConfig) -> None:
        self.settings = tree_settings(config)
        with open_dict(config):
            # verl asks in several places whether the mode is "sync", and then buffers or resumes in other ways.
            config.trainer.v1.trainer_mode = "sync"
            config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = MANAGER
        super().__init__(config)

    def _compute_advantage(self, batch: Any, metrics: dict[str, float]) -> Any:
        # For its correction of the differences between engine and trainer; its advantages are then replaced.
        super()._compute_advantage(batch, metrics)
        return put_advantages(batch, metrics, self.settings.credit.whiten)


def put_advantages(batch: Any, metrics: dict[str, float], whiten: bool) -> Any:
    """Replace `advantages` and `returns` in the TransferQueue by `tree_advantages`, whitened over the batch's tokens.

    Tokens of trees whose rewards agree, which are nan, and those of rows that verl adds to fill a batch get 0 and count
    in no mean. Adds the metrics of trees.
    """
    fields = ["tree_advantages", "response_mask", "extra_fields"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    is_padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
    masks = [row.numpy() > 0 for row in data["response_mask"].unbind(0)]
    raw = [row.numpy().astype(np.float64) for row in data["tree_advantages"].unbind(0)]
    # A row that fills the batch is a copy of another, with one token in place of its response.
    raw = [np.full(len(m), np.nan) if pad else r for r, m, pad in zip(raw, masks, is_padding, strict=True)]
    counts = [(mask & ~np.isnan(row)).astype(np.int64) for row, mask in zip(raw, masks, strict=True)]
    values = [np.nan_to_num(row) * count for row, count in zip(raw, counts, strict=True)]
    if whiten:
        mean, std = whitening_moments(values, counts)
        values = whiten_with(values, counts, mean, std)
        metrics |= {"trees/advantages/raw_mean": mean, "trees/advantages/raw_std": std}
    firsts = [i for i, key in enumerate(batch.keys) if key.endswith("_0_0") and not is_padding[i]]
    trees = [unwrapped(data["extra_fields"][i])["tree"] for i in firsts]
    if trees:
        metrics |= {f"trees/{name}": float(np.mean([tree[name] for tree in trees])) for name in TREE_METRICS}
        metrics["trees/frac_reward_zero_std"] = float(np.mean([np.isnan(raw[i]).all() for i in firsts]))
    rows = [torch.from_numpy(row.astype(np.float32)) for row in values]
    nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    fields_of_rows = TensorDict({"advantages": nested, "returns": nested.clone()}, batch_size=len(batch))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields_of_rows)


def unwrapped(value: Any) -> dict[str, Any]:
    """A row of a column that is not a tensor, which tensordict may have wrapped."""
    return getattr(value, "data", value)

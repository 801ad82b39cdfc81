"""What a loss is computed from.

Letters: S terms · L leaves.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from treepo.learn.packing import PackedTree


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of a batch: each is one response token, of all trajectories that share it.

    policy_logprobs, sampled_logprobs [S]: ratios are between these two. importance [S]: what the term's gain counts,
    1 unless it was sampled from another distribution than ratios refer to. With w the weight of a token of a trajectory
    and A its advantage, summed over the trajectories of a term: positive = importance x sum of w max(A, 0), negative =
    importance x sum of w min(A, 0), weight = sum of w, [S].
    num_positive, num_negative, num_leaves [S]: how many there are with A above 0, with A below 0, and in all.
    leaf_starts, leaf_ends int64 [S]: the leaves of a term, a range of 0..L-1.
    leaf_weights, lens, advantages [L]: per trajectory w, its response tokens and A; nan where nodes have their own.
    """

    policy_logprobs: Tensor
    sampled_logprobs: Tensor
    importance: Tensor
    positive: Tensor
    negative: Tensor
    weight: Tensor
    num_positive: Tensor
    num_negative: Tensor
    num_leaves: Tensor
    leaf_starts: Tensor
    leaf_ends: Tensor
    leaf_weights: Tensor
    lens: Tensor
    advantages: Tensor

    def trajectory_sums(self, values: Tensor) -> Tensor:
        """[S] -> [L]: for each trajectory the sum over its tokens, with gradient."""
        counts = self.leaf_ends - self.leaf_starts
        terms = torch.repeat_interleave(counts)
        within = torch.arange(len(terms), device=terms.device) - (counts.cumsum(0) - counts)[terms]
        return values.new_zeros(len(self.lens)).index_add(0, self.leaf_starts[terms] + within, values[terms])


def terms_of(packed: PackedTree, policy_logprobs: Tensor, importance_cap: float | None = None) -> Terms:
    """The terms of packed trees, in the type and on the device of `policy_logprobs`.

    importance_cap: bound of the importance weights; they are all 1 if it is not given.
    """
    weights, ones = packed.leaf_weights, np.ones(len(packed.lens))
    importance, sums = importance_of(packed, importance_cap), packed.below_by_advantage

    def like(array: object) -> Tensor:
        return torch.as_tensor(array).to(policy_logprobs.device, policy_logprobs.dtype)

    def index(array: object) -> Tensor:
        return torch.as_tensor(array).to(policy_logprobs.device)

    return Terms(
        policy_logprobs=policy_logprobs,
        sampled_logprobs=like(
            packed.recomputed_logprobs if len(packed.recomputed_logprobs) else packed.sampled_logprobs
        ),
        importance=like(importance),
        positive=like(importance * sums(weights, lambda a: a.clip(min=0))),
        negative=like(importance * sums(weights, lambda a: a.clip(max=0))),
        weight=like(packed.below(weights)),
        num_positive=like(sums(ones, lambda a: a > 0)),
        num_negative=like(sums(ones, lambda a: a < 0)),
        num_leaves=like(packed.leaf_ends - packed.leaf_starts),
        leaf_starts=index(packed.leaf_starts),
        leaf_ends=index(packed.leaf_ends),
        leaf_weights=like(weights),
        lens=like(packed.lens),
        advantages=like(packed.advantages),
    )


def importance_of(packed: PackedTree, importance_cap: float | None) -> np.ndarray:
    """float64 [S]: min(p / q, importance_cap), p the policy's own probability of a term before the first update, q the
    engine's; ones if there is no bound. Source: truncated importance sampling, Ionides 2008; for engines that sample
    for a trainer, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"."""
    if importance_cap is None:
        return np.ones(len(packed.targets))
    log_ratios = packed.recomputed_logprobs.astype(np.float64) - packed.sampled_logprobs
    return np.exp(np.minimum(log_ratios, np.log(importance_cap)))

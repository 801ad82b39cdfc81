"""What a loss is computed from.

Letters: S targets · L leaves.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from treepo.learn.packing import PackedTree
from treepo.utils.numeric import MAX_LOG_RATIO


@dataclass(frozen=True, eq=False)
class LossInputs:
    """The targets of a batch: each is one response token, of all trajectories that share it.

    policy_logprobs, old_logprobs [S]: the ratio of a target is exp(policy - old). The old ones are the engine's, or
    with `train.recompute_old_logprobs` the trainer's own from before the first update of the step.
    importance [S]: the weight of the target's gain, 1 unless it was sampled from another distribution than ratios refer
    to. With w the weight of a token of a trajectory and A its advantage, summed over the trajectories of a target:
    positive = importance x sum of w max(A, 0), negative = importance x sum of w min(A, 0), weight = sum of w, [S].
    num_positive, num_negative, num_leaves [S]: the number of trajectories with A above 0, with A below 0, and in all;
    without those that have no weight.
    leaf_starts, leaf_ends int64 [S]: the leaves of a target, a range of 0..L-1.
    leaf_weights, lens, advantages [L]: per trajectory w, its response tokens and A; nan where nodes have their own.
    """

    policy_logprobs: Tensor
    old_logprobs: Tensor
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

    @classmethod
    def from_packed(
        cls, packed: PackedTree, policy_logprobs: Tensor, importance_cap: float | None = None
    ) -> "LossInputs":
        """The targets of packed trees, in the type and on the device of `policy_logprobs`.

        importance_cap: bound of the importance weights; they are all 1 if it is not given.
        """
        weights = packed.leaf_weights
        ones = (weights != 0).astype(np.float64)
        importance, sum_over_leaves = importance_weights(packed, importance_cap), packed.sum_by_advantage

        def like(array: object) -> Tensor:
            return torch.as_tensor(array).to(policy_logprobs.device, policy_logprobs.dtype)

        def index(array: object) -> Tensor:
            return torch.as_tensor(array).to(policy_logprobs.device)

        return cls(
            policy_logprobs=policy_logprobs,
            old_logprobs=like(packed.old_logprobs),
            importance=like(importance),
            positive=like(importance * sum_over_leaves(weights, lambda a: a.clip(min=0))),
            negative=like(importance * sum_over_leaves(weights, lambda a: a.clip(max=0))),
            weight=like(packed.sum_over_leaves(weights)),
            num_positive=like(sum_over_leaves(ones, lambda a: a > 0)),
            num_negative=like(sum_over_leaves(ones, lambda a: a < 0)),
            num_leaves=like(packed.sum_over_leaves(ones)),
            leaf_starts=index(packed.leaf_starts),
            leaf_ends=index(packed.leaf_ends),
            leaf_weights=like(weights),
            lens=like(packed.lens),
            advantages=like(packed.leaf_advantages),
        )

    @property
    def ratios(self) -> Tensor:
        """[S]: exp(policy - old logprob), with gradient where that lies within e^-20 and e^20."""
        return _bounded_exp(self.policy_logprobs - self.old_logprobs)

    @property
    def trajectory_ratios(self) -> Tensor:
        """[L]: the geometric mean of the ratios of a trajectory's tokens, with gradient, within the same bounds."""
        return _bounded_exp(self.trajectory_sums(self.policy_logprobs - self.old_logprobs) / self.lens)

    def trajectory_sums(self, values: Tensor) -> Tensor:
        """[S] -> [L]: for each trajectory the sum over its tokens, with gradient."""
        counts = self.leaf_ends - self.leaf_starts
        targets = torch.repeat_interleave(counts)
        within = torch.arange(len(targets), device=targets.device) - (counts.cumsum(0) - counts)[targets]
        return values.new_zeros(len(self.lens)).index_add(0, self.leaf_starts[targets] + within, values[targets])


def _bounded_exp(log_ratios: Tensor) -> Tensor:
    # One that overflows would make a NaN of every term that multiplies it by 0. Source: verl, compute_policy_loss.
    return log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def importance_weights(packed: PackedTree, importance_cap: float | None) -> np.ndarray:
    """float64 [S]: min(p / q, importance_cap), p the policy's own probability of a target before the first update, q
    the engine's; ones if there is no bound. Source: truncated importance sampling, Ionides 2008; for engines that
    sample for a trainer, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"."""
    if importance_cap is None:
        return np.ones(len(packed.targets))
    log_ratios = packed.recomputed_logprobs.astype(np.float64) - packed.sampled_logprobs
    return np.exp(np.minimum(log_ratios, np.log(importance_cap)))

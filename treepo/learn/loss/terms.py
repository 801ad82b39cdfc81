"""What a loss is computed from.

Letters: S terms · L leaves.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from treepo.learn.packing import PackedTree


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of a batch: each is one response token, of all trajectories that share it.

    policy_logprobs, sampled_logprobs [S]. With w the weight of a token of a trajectory and A its advantage, summed over
    the trajectories of a term: positive = sum of w max(A, 0), negative = sum of w min(A, 0), weight = sum of w, [S].
    num_positive, num_negative, num_leaves [S]: how many there are with A above 0, with A below 0, and in all.
    leaf_starts, leaf_ends int64 [S]: the leaves of a term, a range of 0..L-1.
    advantages, leaf_weights, lens [L]: per trajectory A, w and its response tokens.
    """

    policy_logprobs: Tensor
    sampled_logprobs: Tensor
    positive: Tensor
    negative: Tensor
    weight: Tensor
    num_positive: Tensor
    num_negative: Tensor
    num_leaves: Tensor
    leaf_starts: Tensor
    leaf_ends: Tensor
    advantages: Tensor
    leaf_weights: Tensor
    lens: Tensor

    def trajectory_sums(self, values: Tensor) -> Tensor:
        """[S] -> [L]: for each trajectory the sum over its tokens, with gradient."""
        counts = self.leaf_ends - self.leaf_starts
        terms = torch.repeat_interleave(counts)
        within = torch.arange(len(terms), device=terms.device) - (counts.cumsum(0) - counts)[terms]
        return values.new_zeros(len(self.lens)).index_add(0, self.leaf_starts[terms] + within, values[terms])


def terms_of(packed: PackedTree, policy_logprobs: Tensor) -> Terms:
    """The terms of packed trees, in the type and on the device of `policy_logprobs`."""
    advantages, weights = packed.advantages, packed.leaf_weights

    def like(array: object) -> Tensor:
        return torch.as_tensor(array).to(policy_logprobs.device, policy_logprobs.dtype)

    def index(array: object) -> Tensor:
        return torch.as_tensor(array).to(policy_logprobs.device)

    return Terms(
        policy_logprobs=policy_logprobs,
        sampled_logprobs=like(packed.sampled_logprobs),
        positive=like(packed.below(weights * advantages.clip(min=0))),
        negative=like(packed.below(weights * advantages.clip(max=0))),
        weight=like(packed.below(weights)),
        num_positive=like(packed.below(advantages > 0)),
        num_negative=like(packed.below(advantages < 0)),
        num_leaves=like(packed.leaf_ends - packed.leaf_starts),
        leaf_starts=index(packed.leaf_starts),
        leaf_ends=index(packed.leaf_ends),
        advantages=like(advantages),
        leaf_weights=like(weights),
        lens=like(packed.lens),
    )

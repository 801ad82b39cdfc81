"""The clipped policy loss, exact for tokens that several trajectories share."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClippedLoss:
    """Sum over trajectories of -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(policy - sampled logprob).

    For A > 0 a term is A min(r, 1 + clip_high), for A < 0 it is A max(r, 1 - clip_low): linear in A on either side,
    so the trajectories that share a token need only the sums of their positive and of their negative advantages.
    Source: PPO, arXiv 1707.06347, eq. 7; separate bounds as in DAPO, arXiv 2503.14476, eq. 8.
    """

    clip_low: float = 0.2
    """The ratio of tokens with negative advantage is held above 1 - clip_low."""

    clip_high: float = 0.28
    """The ratio of tokens with positive advantage is held below 1 + clip_high."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1:
            raise ValueError(f"clip_low must lie between 0 and 1, got {self.clip_low}")
        if not self.clip_high > 0:
            raise ValueError(f"clip_high must be positive, got {self.clip_high}")

    def __call__(self, policy_logprobs: Tensor, sampled_logprobs: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The sum over all terms, a scalar; every argument is [S], see PackedTree."""
        ratio = torch.exp(policy_logprobs - sampled_logprobs)
        gains = positive * ratio.clamp(max=1 + self.clip_high) + negative * ratio.clamp(min=1 - self.clip_low)
        return -gains.sum()

    def clipped(self, policy_logprobs: Tensor, sampled_logprobs: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Bool [S]: terms where some trajectory gets no gradient because its ratio is out of bounds."""
        ratio = torch.exp(policy_logprobs - sampled_logprobs)
        too_high = (ratio > 1 + self.clip_high) & (positive > 0)
        return too_high | ((ratio < 1 - self.clip_low) & (negative < 0))

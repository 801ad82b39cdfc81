"""The clipped loss of PPO."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from treepo.learn.loss.terms import Terms


@dataclass(frozen=True)
class PPO:
    """Sum of -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(policy - sampled logprob).

    For A > 0 that is -A min(r, 1 + clip_high), for A < 0 it is -A max(r, 1 - clip_low): linear in A on either side.
    Source: PPO, arXiv 1707.06347, eq. 7; separate bounds: DAPO, arXiv 2503.14476, eq. 8; dual clip: Ye et al.,
    arXiv 1912.09729.
    """

    per_trajectory: ClassVar[bool] = False

    clip_low: float = 0.2
    """The ratio of tokens with negative advantage is held above 1 - clip_low."""

    clip_high: float = 0.28
    """The ratio of tokens with positive advantage is held below 1 + clip_high."""

    dual_clip: float | None = None
    """The ratio of tokens with negative advantage is held below this too, if given (Ye et al. use 3)."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1:
            raise ValueError(f"clip_low must lie between 0 and 1, got {self.clip_low}")
        if not self.clip_high > 0:
            raise ValueError(f"clip_high must be positive, got {self.clip_high}")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip must be above 1, got {self.dual_clip}")

    def __call__(self, terms: Terms) -> Tensor:
        ratio = torch.exp(terms.policy_logprobs - terms.sampled_logprobs)
        gains = terms.positive * ratio.clamp(max=1 + self.clip_high)
        losses = terms.negative * ratio.clamp(min=1 - self.clip_low, max=self.dual_clip)
        return -(gains + losses).sum()

    def num_clipped(self, terms: Terms) -> Tensor:
        ratio = torch.exp(terms.policy_logprobs - terms.sampled_logprobs)
        held_below = ratio < 1 - self.clip_low
        if self.dual_clip is not None:
            held_below |= ratio > self.dual_clip
        return (terms.num_positive * (ratio > 1 + self.clip_high) + terms.num_negative * held_below).sum()

"""The sequence-level clipped loss of GSPO."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from treepo.learn.loss.terms import Terms


@dataclass(frozen=True)
class GSPO:
    """Sum over trajectories of -w n min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s the geometric mean of the
    ratios of its n tokens.

    The log-ratios of a trajectory are summed over its path through the tree, so sharing changes nothing. With
    `TrajectoryMean` (w = 1 / n) this is the mean over trajectories that the source has. Source: GSPO, arXiv 2507.18071,
    eq. 5-7; the bounds are those of its section 5.1.
    """

    per_trajectory: ClassVar[bool] = True

    clip_low: float = 3e-4
    """The ratio of trajectories with negative advantage is held above 1 - clip_low."""

    clip_high: float = 4e-4
    """The ratio of trajectories with positive advantage is held below 1 + clip_high."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1:
            raise ValueError(f"clip_low must lie between 0 and 1, got {self.clip_low}")
        if not self.clip_high > 0:
            raise ValueError(f"clip_high must be positive, got {self.clip_high}")

    def __call__(self, terms: Terms) -> Tensor:
        ratio, advantages = self._ratio(terms).detach(), terms.advantages
        counted = terms.trajectory_sums(terms.importance)
        # 0, with the gradient of each token's log-probability for as much as the token counts.
        slopes = terms.importance * (terms.policy_logprobs - terms.policy_logprobs.detach())
        free = ratio * (counted + terms.trajectory_sums(slopes))
        held = ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * counted
        gains = torch.where(self._is_held(ratio, advantages), held, free) * advantages
        return -(terms.leaf_weights * gains).sum()

    def num_clipped(self, terms: Terms) -> Tensor:
        return (terms.lens * self._is_held(self._ratio(terms), terms.advantages)).sum()

    def _is_held(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        too_high, too_low = ratio > 1 + self.clip_high, ratio < 1 - self.clip_low
        return (too_high & (advantages > 0)) | (too_low & (advantages < 0))

    def _ratio(self, terms: Terms) -> Tensor:
        return torch.exp(terms.trajectory_sums(terms.policy_logprobs - terms.sampled_logprobs) / terms.lens)

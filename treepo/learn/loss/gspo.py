"""The sequence-level clipped loss of GSPO."""

from dataclasses import dataclass

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
        ratio, advantages = self._ratio(terms), terms.advantages
        gains = torch.minimum(ratio * advantages, ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantages)
        return -(terms.leaf_weights * terms.lens * gains).sum()

    def num_clipped(self, terms: Terms) -> Tensor:
        ratio = self._ratio(terms)
        too_high = (ratio > 1 + self.clip_high) & (terms.advantages > 0)
        return (terms.lens * (too_high | ((ratio < 1 - self.clip_low) & (terms.advantages < 0)))).sum()

    def _ratio(self, terms: Terms) -> Tensor:
        return torch.exp(terms.trajectory_sums(terms.policy_logprobs - terms.sampled_logprobs) / terms.lens)

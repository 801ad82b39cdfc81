"""Truncated importance weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from treepo.learn.loss.terms import Terms


@dataclass(frozen=True)
class CISPO:
    """Sum of -stop_gradient(clip(r, min_weight, max_weight)) A logprob, r = exp(policy - sampled logprob).

    Every token keeps a gradient; only its weight is bounded. Source: MiniMax-M1, arXiv 2506.13585, eq. 4-5, which tunes
    the upper bound alone; the default is that of ScaleRL, arXiv 2510.13786.
    """

    per_trajectory: ClassVar[bool] = False

    max_weight: float = 5.0
    """Largest importance weight."""

    min_weight: float = 0.0
    """Smallest importance weight."""

    def __post_init__(self) -> None:
        if not self.max_weight > 0:
            raise ValueError(f"max_weight must be positive, got {self.max_weight}")
        if not 0 <= self.min_weight <= self.max_weight:
            raise ValueError(f"min_weight must lie between 0 and max_weight, got {self.min_weight}")

    def __call__(self, terms: Terms) -> Tensor:
        weight = self._ratio(terms).clamp(self.min_weight, self.max_weight)
        return -(weight * (terms.positive + terms.negative) * terms.policy_logprobs).sum()

    def num_clipped(self, terms: Terms) -> Tensor:
        ratio = self._ratio(terms)
        held = (ratio > self.max_weight) | (ratio < self.min_weight)
        return (held * (terms.num_positive + terms.num_negative)).sum()

    def _ratio(self, terms: Terms) -> Tensor:
        return torch.exp(terms.policy_logprobs - terms.sampled_logprobs).detach()

"""The plain policy gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from treepo.learn.loss.terms import Terms


@dataclass(frozen=True)
class REINFORCE:
    """Sum of -A logprob, without importance weights: right for what the policy itself sampled, one update a step.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """

    per_trajectory: ClassVar[bool] = False

    def __call__(self, terms: Terms) -> Tensor:
        return -((terms.positive + terms.negative) * terms.policy_logprobs).sum()

    def num_clipped(self, terms: Terms) -> Tensor:
        return terms.policy_logprobs.new_zeros(())

"""What is added to the loss: a penalty on leaving the reference, a bonus for entropy."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from treepo.learn.loss.terms import Terms

KLEstimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class Penalties:
    """Sum of w (kl x KL(policy | reference) - entropy x H), for every token of every trajectory."""

    kl: float = 0.0
    """Coefficient of the divergence from the reference; 0 needs no reference."""

    kl_estimator: KLEstimator = "k3"
    """k1, k2 or k3; see kl_estimates. k1's gradient vanishes on average, so that it only measures."""

    entropy: float = 0.0
    """Coefficient of the entropy bonus."""

    def __post_init__(self) -> None:
        if self.kl < 0:
            raise ValueError(f"kl must not be negative, got {self.kl}")

    def __call__(self, terms: Terms, ref_logprobs: Tensor, entropies: Tensor) -> Tensor:
        """ref_logprobs, entropies [S]; those that are not asked for are not looked at."""
        penalty = terms.policy_logprobs.new_zeros(())
        if self.kl:
            estimates = kl_estimates(terms.policy_logprobs, ref_logprobs, self.kl_estimator)
            penalty = penalty + self.kl * (terms.weight * estimates).sum()
        if self.entropy:
            penalty = penalty - self.entropy * (terms.weight * entropies).sum()
        return penalty


def kl_estimates(policy_logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Per token an estimate of KL(policy | reference) from what the policy sampled; d = policy - reference logprob.

    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. Source: Schulman, "Approximating KL divergence" (2020); k3 is the one of
    GRPO, arXiv 2402.03300, eq. 4.
    """
    difference = policy_logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.expm1(-difference) + difference

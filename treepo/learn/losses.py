"""Losses on packed trees, each exact for tokens that several trajectories share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np

from treepo.errors import SettingError
from treepo.learn.settings import remaining
from treepo.utils.numeric import MAX_LOG_RATIO

if TYPE_CHECKING:
    from torch import Tensor

    from treepo.learn.loss_inputs import LossInputs


class Aggregation(Protocol):
    """lens [L] -> float64 [L]: the weight of a token of each trajectory.

    A trajectory that is masked (`train.mask_truncated_completions`) has length 0; its weight is not used.
    """

    def __call__(self, lens: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenMean:
    """1 / sum of n: the mean over all response tokens of the update. Source: DAPO, arXiv 2503.14476, section 3.3."""

    def __call__(self, lens: np.ndarray) -> np.ndarray:
        return np.full(len(lens), 1.0 / max(lens.sum(), 1.0))


@dataclass(frozen=True)
class TrajectoryMean:
    """1 / (L n_i): the mean over trajectories of the means over their tokens. Source: GRPO, arXiv 2402.03300, eq. 3."""

    def __call__(self, lens: np.ndarray) -> np.ndarray:
        return 1.0 / (len(lens) * np.maximum(lens, 1.0))


@dataclass(frozen=True)
class ConstantLength:
    """1 / (L length): sums over tokens divided by a constant, so that no length is favoured. Source: Dr. GRPO,
    arXiv 2503.20783, section 3.2."""

    length: int
    """The constant; its authors take the longest response that is allowed."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise SettingError("length", "must be at least 1", self.length)

    def __call__(self, lens: np.ndarray) -> np.ndarray:
        return np.full(len(lens), 1.0 / (len(lens) * self.length))


class Loss(Protocol):
    """Sum over trajectories and their tokens of weight x loss, a scalar with gradient.

    A target stands for all trajectories that share it, so a loss has to be linear in the advantage on either side of 0
    (then `positive` and `negative` say all about them), or to be computed per trajectory from sums of what its tokens
    contribute (`LossInputs.trajectory_sums`). One that is neither needs `train.packing = false`, where every target
    belongs to one trajectory.
    """

    per_trajectory: ClassVar[bool]
    """Whether it needs one advantage per trajectory (`LossInputs.advantages`); if not, each token may have its own."""

    def __call__(self, inputs: LossInputs) -> Tensor: ...

    def num_clipped(self, inputs: LossInputs) -> Tensor:
        """The number of tokens of trajectories with an advantage that a bound holds back; a scalar."""
        ...


def _check_clip(clip_low: float, clip_high: float) -> None:
    if not 0 < clip_low < 1:
        raise SettingError("clip_low", "must lie between 0 and 1", clip_low)
    if not clip_high > 0:
        raise SettingError("clip_high", "must be positive", clip_high)


@dataclass(frozen=True)
class PPO:
    """Sum of -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(policy - old logprob).

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
        _check_clip(self.clip_low, self.clip_high)
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise SettingError("dual_clip", "must be above 1", self.dual_clip)

    def __call__(self, inputs: LossInputs) -> Tensor:
        ratio = inputs.ratios
        gains = inputs.positive * ratio.clamp(max=1 + self.clip_high)
        losses = inputs.negative * ratio.clamp(min=1 - self.clip_low, max=self.dual_clip)
        return -(gains + losses).sum()

    def num_clipped(self, inputs: LossInputs) -> Tensor:
        ratio = inputs.ratios
        held_below = ratio < 1 - self.clip_low
        if self.dual_clip is not None:
            held_below |= ratio > self.dual_clip
        return (inputs.num_positive * (ratio > 1 + self.clip_high) + inputs.num_negative * held_below).sum()


@dataclass(frozen=True)
class REINFORCE:
    """Sum of -A logprob, without importance weights: right for what the policy itself sampled, one update a step.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """

    per_trajectory: ClassVar[bool] = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        return -((inputs.positive + inputs.negative) * inputs.policy_logprobs).sum()

    def num_clipped(self, inputs: LossInputs) -> Tensor:
        return inputs.policy_logprobs.new_zeros(())


@dataclass(frozen=True)
class CISPO:
    """Sum of -stop_gradient(clip(r, min_weight, max_weight)) A logprob, r = exp(policy - old logprob).

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
            raise SettingError("max_weight", "must be positive", self.max_weight)
        if not 0 <= self.min_weight <= self.max_weight:
            raise SettingError("min_weight", "must lie between 0 and max_weight", self.min_weight)

    def __call__(self, inputs: LossInputs) -> Tensor:
        weight = inputs.ratios.detach().clamp(self.min_weight, self.max_weight)
        return -(weight * (inputs.positive + inputs.negative) * inputs.policy_logprobs).sum()

    def num_clipped(self, inputs: LossInputs) -> Tensor:
        ratio = inputs.ratios
        held = (ratio > self.max_weight) | (ratio < self.min_weight)
        return (held * (inputs.num_positive + inputs.num_negative)).sum()


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
        _check_clip(self.clip_low, self.clip_high)

    def __call__(self, inputs: LossInputs) -> Tensor:
        ratio, advantages = inputs.trajectory_ratios.detach(), inputs.advantages
        counted = inputs.trajectory_sums(inputs.importance)
        # 0, with the gradient of each token's log-probability for as much as the token counts.
        slopes = inputs.importance * (inputs.policy_logprobs - inputs.policy_logprobs.detach())
        free = ratio * (counted + inputs.trajectory_sums(slopes))
        held = ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * counted
        gains = held.where(self._is_held(ratio, advantages), free) * advantages
        return -(inputs.leaf_weights * gains).sum()

    def num_clipped(self, inputs: LossInputs) -> Tensor:
        is_held = self._is_held(inputs.trajectory_ratios, inputs.advantages) & (inputs.leaf_weights != 0)
        return (inputs.lens * is_held).sum()

    def _is_held(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        too_high, too_low = ratio > 1 + self.clip_high, ratio < 1 - self.clip_low
        return (too_high & (advantages > 0)) | (too_low & (advantages < 0))


KLEstimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class Penalties:
    """Sum of w (kl x KL(policy | reference) - entropy x H), for every token of every trajectory."""

    kl_coef: float = 0.0
    """Coefficient of the divergence from the reference; 0 needs no reference."""

    kl_estimator: KLEstimator = "k3"
    """k1, k2 or k3; see kl_estimates. k1's gradient vanishes on average, so that it only measures."""

    entropy_coef: float = 0.0
    """Coefficient of the entropy bonus."""

    kl_coef_end: float | None = None
    """kl_coef of the last update, which is approached from the first on; the same if not given."""

    entropy_coef_end: float | None = None
    """entropy_coef of the last update, likewise."""

    scheduler_type: Literal["linear", "cosine"] = "linear"
    """Whether coefficients with an end approach it on a line or on half a cosine."""

    def __post_init__(self) -> None:
        for name in ("kl_coef", "kl_coef_end"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise SettingError(name, "must not be negative", value)

    @property
    def needs_reference(self) -> bool:
        """Whether some update of the run has a penalty on the divergence from the reference."""
        return bool(self.kl_coef or self.kl_coef_end)

    @property
    def scheduled(self) -> list[str]:
        """The names of the coefficients that change over the run."""
        return [name for name in ("kl_coef", "entropy_coef") if getattr(self, f"{name}_end") is not None]

    def after(self, done: int, num_updates: int) -> Penalties:
        """The penalties with the coefficients of the next update, `done` of all being made."""
        left = remaining(self.scheduler_type, done, num_updates - 1)
        ends = {name: (getattr(self, name), getattr(self, f"{name}_end")) for name in self.scheduled}
        return replace(self, **{name: end + left * (start - end) for name, (start, end) in ends.items()})

    def __call__(self, inputs: LossInputs, ref_logprobs: Tensor, entropies: Tensor) -> Tensor:
        """ref_logprobs, entropies [S]; only those with a coefficient are read."""
        penalty = inputs.policy_logprobs.new_zeros(())
        if self.kl_coef:
            estimates = kl_estimates(inputs.policy_logprobs, ref_logprobs, self.kl_estimator)
            penalty = penalty + self.kl_coef * (inputs.weight * estimates).sum()
        if self.entropy_coef:
            penalty = penalty - self.entropy_coef * (inputs.weight * entropies).sum()
        return penalty


def kl_estimates(policy_logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Per token an estimate of KL(policy | reference) from what the policy sampled; d = policy - reference logprob.

    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. Source: Schulman, "Approximating KL divergence" (2020); k3 is the one of
    GRPO, arXiv 2402.03300, eq. 4; its d is held within -MAX_LOG_RATIO and MAX_LOG_RATIO, since it is exponentiated.
    """
    difference = policy_logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    difference = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (-difference).expm1() + difference

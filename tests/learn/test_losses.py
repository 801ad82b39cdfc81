"""The losses on inputs made by hand; test_update.py compares them with the published formulas through models."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.learn.reference import cispo, ppo
from treepo.learn.loss_inputs import LossInputs
from treepo.learn.losses import CISPO, GSPO, PPO, REINFORCE, KLEstimator, Loss, kl_estimates

ADVANTAGES = st.lists(st.integers(-500, 500).map(lambda n: n / 100), min_size=1, max_size=6)


def one_target(log_ratio: Tensor, advantages: list[float]) -> LossInputs:
    """A single token that trajectories with these advantages share, each with weight 1."""
    values = torch.tensor(advantages, dtype=torch.float64)

    def whole(x: float) -> Tensor:
        return torch.tensor([x], dtype=torch.float64)

    return LossInputs(
        policy_logprobs=log_ratio - 1.3,
        old_logprobs=whole(-1.3),
        importance=whole(1.0),
        positive=whole(float(values.clamp(min=0).sum())),
        negative=whole(float(values.clamp(max=0).sum())),
        weight=whole(len(advantages)),
        num_positive=whole(float((values > 0).sum())),
        num_negative=whole(float((values < 0).sum())),
        num_leaves=whole(len(advantages)),
        leaf_starts=torch.tensor([0]),
        leaf_ends=torch.tensor([len(advantages)]),
        leaf_weights=torch.ones_like(values),
        lens=torch.ones_like(values),
        advantages=values,
    )


@given(
    log_ratio=st.floats(-2, 2),
    advantages=ADVANTAGES,
    low=st.floats(0.05, 0.9),
    high=st.floats(0.05, 3.0),
    dual=st.sampled_from([None, 1.5, 3.0]),
)
@example(log_ratio=math.log(1.5), advantages=[1.0, -1.0], low=0.2, high=0.28, dual=None)
@example(log_ratio=math.log(0.5), advantages=[1.0, -1.0], low=0.2, high=0.28, dual=None)
@example(log_ratio=math.log(4.0), advantages=[1.0, -1.0], low=0.2, high=0.28, dual=3.0)
@settings(deadline=None)
def test_two_weights_equal_the_min_form(
    log_ratio: float, advantages: list[float], low: float, high: float, dual: float | None
) -> None:
    """The sums above and below 0 give the value and the gradient of all trajectories' own terms, and the count of those
    that a bound holds back."""
    edges = (1 - low, 1 + high, dual or 0.0)
    # At the kinks themselves either one-sided gradient is right.
    assume(min(abs(math.exp(log_ratio) - edge) for edge in edges) > 1e-9)
    loss = PPO(low, high, dual)
    mine, plain = (torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True) for _ in range(2))
    inputs = one_target(mine, advantages)
    value = loss(inputs)
    value.backward()
    num_clipped, expected = 0, torch.zeros((), dtype=torch.float64)
    for advantage in advantages:
        own = ppo(low, high, dual)(plain - 1.3, inputs.old_logprobs, advantage).sum()
        (gradient,) = torch.autograd.grad(own, plain, retain_graph=True)
        num_clipped += advantage != 0 and gradient.item() == 0
        expected = expected + own
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-12, atol=1e-12)
    assert float(loss.num_clipped(inputs)) == num_clipped


@pytest.mark.parametrize(
    ("loss", "ratio", "advantages", "value", "gradient"),
    [
        (PPO(), 1.0, [2.0, -1.0], -1.0, -1.0),  # on policy: the plain policy gradient
        (PPO(), 1.5, [1.0], -1.28, 0.0),  # good and already likelier by more than 28%: held
        (PPO(), 1.5, [-1.0], 1.5, 1.5),  # bad and likelier: pushed down without bound
        (PPO(), 0.5, [1.0], -0.5, -0.5),  # good and less likely: pulled up
        (PPO(), 0.5, [-1.0], 0.8, 0.0),  # bad and already less likely by more than 20%: held
        (PPO(), 1.5, [1.0, -1.0], 0.22, 1.5),  # both: one side is held, the other is not, although the sum is 0
        (PPO(dual_clip=3.0), 4.0, [-1.0], 3.0, 0.0),  # bad and far likelier: held by the second bound
        (PPO(dual_clip=3.0), 2.0, [-1.0], 2.0, 2.0),
        (GSPO(0.2, 0.28), 1.5, [1.0], -1.28, 0.0),  # of one token, a sequence's ratio is the token's
        (GSPO(0.2, 0.28), 1.1, [1.0, -3.0], 2.2, 2.2),
        (CISPO(max_weight=2.0), 4.0, [1.0], -2.0 * (math.log(4.0) - 1.3), -2.0),  # bounded, but not without gradient
        (CISPO(max_weight=2.0), 1.5, [1.0, -2.0], 1.5 * (math.log(1.5) - 1.3), 1.5),
        (REINFORCE(), 4.0, [1.0, -3.0], 2 * (math.log(4.0) - 1.3), 2.0),
    ],
    ids=str,
)
def test_values_by_hand(loss: Loss, ratio: float, advantages: list[float], value: float, gradient: float) -> None:
    """With an old log-probability of -1.3."""
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    got = loss(one_target(log_ratio, advantages))
    got.backward()
    assert log_ratio.grad is not None
    assert got.item() == pytest.approx(value, abs=1e-12)
    assert log_ratio.grad.item() == pytest.approx(gradient, abs=1e-12)


@given(log_ratio=st.floats(-3, 3), advantages=ADVANTAGES, low=st.floats(0, 1), high=st.floats(1, 10))
@settings(deadline=None)
def test_truncated_weights_are_those_of_each_trajectory(
    log_ratio: float, advantages: list[float], low: float, high: float
) -> None:
    loss, mine = CISPO(high, low), torch.tensor([log_ratio], dtype=torch.float64)
    inputs = one_target(mine, advantages)
    expected = sum(cispo(low, high)(mine - 1.3, inputs.old_logprobs, a).sum() for a in advantages)
    torch.testing.assert_close(loss(inputs), torch.as_tensor(expected), rtol=1e-12, atol=1e-12)
    held = not low <= float(torch.exp(mine)) <= high
    assert float(loss.num_clipped(inputs)) == held * sum(a != 0 for a in advantages)


def test_sums_over_paths() -> None:
    """Targets 0 (leaves 0-2), 1 (leaf 0), 2 (leaves 1-2), 3 (leaf 2), and a target of no leaf."""
    inputs = one_target(torch.zeros(1, dtype=torch.float64), [1.0, 1.0, 1.0])
    ranges = np.array([[0, 3], [0, 1], [1, 3], [2, 3], [1, 1]])
    object.__setattr__(inputs, "leaf_starts", torch.from_numpy(ranges[:, 0]))
    object.__setattr__(inputs, "leaf_ends", torch.from_numpy(ranges[:, 1]))
    values = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0], dtype=torch.float64, requires_grad=True)
    sums = inputs.trajectory_sums(values)
    assert sums.tolist() == [11.0, 101.0, 1101.0]
    (sums * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [7.0, 1.0, 6.0, 4.0, 0.0]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: PPO(clip_low=0.0), "clip_low"),
        (lambda: PPO(clip_low=1.0), "clip_low"),
        (lambda: PPO(clip_high=0.0), "clip_high"),
        (lambda: PPO(dual_clip=1.0), "dual_clip"),
        (lambda: GSPO(clip_low=-0.1), "clip_low"),
        (lambda: GSPO(clip_high=-1.0), "clip_high"),
        (lambda: CISPO(max_weight=0.0), "max_weight"),
        (lambda: CISPO(max_weight=1.0, min_weight=2.0), "min_weight"),
    ],
)
def test_impossible_bounds_are_refused(make, name: str) -> None:
    """Bounds that clip everything, or nothing below 0, are named."""
    with pytest.raises(ValueError, match=f"^{name}: must"):
        make()


@pytest.mark.parametrize("loss", [PPO(), PPO(dual_clip=3.0), CISPO(), GSPO()])
@pytest.mark.parametrize("log_ratio", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("advantages", [[1.0], [-1.0], [1.0, -1.0], [0.0]])
def test_log_ratios_that_overflow_make_no_nan(loss: Loss, log_ratio: float, advantages: list[float]) -> None:
    """exp(200) overflows in float32, and infinity times a weight of 0 is no number."""
    mine = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    inputs = one_target(mine, advantages)
    fields = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    narrow = LossInputs(**{n: v.float() if v.is_floating_point() else v for n, v in fields.items()})
    value = loss(narrow)
    value.backward()
    assert torch.isfinite(value) and mine.grad is not None and torch.isfinite(mine.grad).all()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_estimates_of_the_divergence_are_finite_however_far_apart(estimator: KLEstimator) -> None:
    policy = torch.tensor([-1e3, 0.0, -0.5], requires_grad=True)
    estimates = kl_estimates(policy, torch.tensor([0.0, -1e3, -0.6]), estimator)
    estimates.sum().backward()
    assert torch.isfinite(estimates).all() and policy.grad is not None and torch.isfinite(policy.grad).all()
    assert estimates[2].item() == pytest.approx({"k1": 0.1, "k2": 0.005, "k3": math.exp(-0.1) - 0.9}[estimator], 1e-4)

"""The clipped loss with two weights per term."""

import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from treepo.learn.loss import ClippedLoss

ADVANTAGES = st.lists(st.integers(-500, 500).map(lambda n: n / 100), min_size=1, max_size=6)


def min_form(ratio: torch.Tensor, advantage: float, loss: ClippedLoss) -> torch.Tensor:
    """PPO's objective for one trajectory, as published."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high) * advantage)


@given(
    log_ratio=st.floats(-2, 2),
    advantages=ADVANTAGES,
    low=st.floats(0.05, 0.9),
    high=st.floats(0.05, 3.0),
)
@example(log_ratio=math.log(1.5), advantages=[1.0, -1.0], low=0.2, high=0.28)
@example(log_ratio=math.log(0.5), advantages=[1.0, -1.0], low=0.2, high=0.28)
@settings(deadline=None)
def test_two_weights_equal_the_min_form(log_ratio: float, advantages: list[float], low: float, high: float) -> None:
    """The sums above and below 0 give the value and the gradient of all trajectories' own terms."""
    loss = ClippedLoss(clip_low=low, clip_high=high)
    # At the kinks themselves either one-sided gradient is right.
    assume(min(abs(math.exp(log_ratio) - edge) for edge in (1 - low, 1 + high)) > 1e-9)
    sampled = torch.tensor([-1.3], dtype=torch.float64)
    mine = (sampled + log_ratio).requires_grad_()
    plain = (sampled + log_ratio).requires_grad_()
    weights = [
        torch.tensor([sum(x)], dtype=torch.float64)
        for x in ([max(a, 0.0) for a in advantages], [min(a, 0.0) for a in advantages])
    ]
    value = loss(mine, sampled, *weights)
    expected = -sum(min_form(torch.exp(plain - sampled), a, loss) for a in advantages).sum()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "positive", "negative", "value", "gradient"),
    [
        (1.0, 2.0, -1.0, -1.0, -1.0),  # on policy: the plain policy gradient
        (1.5, 1.0, 0.0, -1.28, 0.0),  # good and already likelier by more than 28%: held
        (1.5, 0.0, -1.0, 1.5, 1.5),  # bad and likelier: pushed down without bound
        (0.5, 1.0, 0.0, -0.5, -0.5),  # good and less likely: pulled up
        (0.5, 0.0, -1.0, 0.8, 0.0),  # bad and already less likely by more than 20%: held
        (1.5, 1.0, -1.0, 0.22, 1.5),  # both: one side is held, the other is not, although the sum is 0
    ],
)
def test_values_by_hand(ratio: float, positive: float, negative: float, value: float, gradient: float) -> None:
    """The default bounds 0.2 and 0.28 on either side."""
    policy = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero, weights = (
        torch.zeros(1, dtype=torch.float64),
        [torch.tensor([w], dtype=torch.float64) for w in (positive, negative)],
    )
    loss = ClippedLoss()(policy, zero, *weights)
    loss.backward()
    assert policy.grad is not None
    assert loss.item() == pytest.approx(value, abs=1e-12)
    assert policy.grad.item() == pytest.approx(gradient, abs=1e-12)


@given(log_ratio=st.floats(-2, 2), advantages=ADVANTAGES)
@settings(deadline=None)
def test_clipped_says_where_a_trajectory_gets_no_gradient(log_ratio: float, advantages: list[float]) -> None:
    """A term is clipped if some trajectory with an advantage other than 0 has no gradient there."""
    loss = ClippedLoss()
    assume(min(abs(math.exp(log_ratio) - edge) for edge in (0.8, 1.28)) > 1e-9)
    expected = False
    for advantage in advantages:
        policy = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
        min_form(torch.exp(policy), advantage, loss).sum().backward()
        assert policy.grad is not None
        expected |= advantage != 0 and policy.grad.item() == 0
    zero = torch.zeros(1, dtype=torch.float64)
    weights = [
        torch.tensor([sum(x)], dtype=torch.float64)
        for x in ([max(a, 0.0) for a in advantages], [min(a, 0.0) for a in advantages])
    ]
    policy = torch.tensor([log_ratio], dtype=torch.float64)
    assert loss.clipped(policy, zero, *weights).tolist() == [expected]


def test_terms_add_up() -> None:
    """The loss of several terms is the sum of their losses."""
    generator = torch.Generator().manual_seed(0)
    policy, sampled, positive, negative = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    positive, negative = positive.abs(), -negative.abs()
    one_by_one = [ClippedLoss()(*(x[i : i + 1] for x in (policy, sampled, positive, negative))) for i in range(9)]
    torch.testing.assert_close(ClippedLoss()(policy, sampled, positive, negative), torch.stack(one_by_one).sum())


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.2), (1.0, 0.2), (-0.1, 0.2), (0.2, 0.0), (0.2, -1.0)])
def test_impossible_bounds_are_refused(low: float, high: float) -> None:
    """Bounds that clip everything, or nothing below 0, are named."""
    with pytest.raises(ValueError, match=r"clip_(low|high) must"):
        ClippedLoss(low, high)

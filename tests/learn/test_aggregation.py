"""What each token weighs, and what is added to the loss."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treepo.learn.losses import Aggregation, ConstantLength, Penalties, TokenMean, TrajectoryMean, kl_estimates

pytestmark = pytest.mark.quick

LENS = st.lists(st.integers(1, 100), min_size=1, max_size=20).map(lambda lens: np.array(lens, float))


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (TokenMean(), [0.125, 0.125]),
        (TrajectoryMean(), [0.25, 1 / 12]),
        (ConstantLength(10), [0.05, 0.05]),
    ],
    ids=str,
)
def test_weights_by_hand(aggregation: Aggregation, expected: list[float]) -> None:
    """Two trajectories, of 2 and of 6 tokens."""
    assert aggregation(np.array([2.0, 6.0])) == pytest.approx(expected)


@given(LENS)
def test_means_add_up_to_one(lens: np.ndarray) -> None:
    """A mean over tokens, or over trajectories, of a constant is that constant."""
    for aggregation in (TokenMean(), TrajectoryMean()):
        assert float((aggregation(lens) * lens).sum()) == pytest.approx(1.0)


@given(LENS, st.integers(1, 50))
def test_equal_lengths_make_all_alike(lens: np.ndarray, length: int) -> None:
    """Where all trajectories have the constant's length, the three are the same."""
    same = np.full(len(lens), float(length))
    for aggregation in (TrajectoryMean(), ConstantLength(length)):
        assert aggregation(same) == pytest.approx(TokenMean()(same))


def test_estimates_of_the_divergence_by_hand() -> None:
    """Policy twice as likely as the reference: log 2, half its square, 1/2 - 1 + log 2."""
    policy, ref = torch.log(torch.tensor([0.5])), torch.log(torch.tensor([0.25]))
    log2 = float(np.log(2))
    for estimator, value in (("k1", log2), ("k2", log2**2 / 2), ("k3", 0.5 - 1 + log2)):
        assert kl_estimates(policy, ref, estimator).item() == pytest.approx(value)


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    """Averaged over what the policy samples, against the divergence itself."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    exact = float((p * (p / q).log()).sum())
    means = {k: float((p * kl_estimates(p.log(), q.log(), k)).sum()) for k in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(exact)
    assert means["k3"] == pytest.approx(exact)
    assert abs(means["k2"] - exact) > 0.01


@pytest.mark.parametrize("make", [lambda: ConstantLength(0), lambda: Penalties(kl_coef=-1.0)])
def test_impossible_settings_are_named(make) -> None:
    with pytest.raises(ValueError, match=r"^(length|kl_coef): must"):
        make()

"""Softmax and shares in whole numbers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.utils.numeric import largest_remainder, softmax

pytestmark = pytest.mark.quick


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=8), st.floats(-1e5, 1e5))
def test_softmax_sums_to_one_and_ignores_a_shift(logits, shift):
    probabilities = softmax(np.array(logits))
    assert probabilities.sum() == pytest.approx(1)
    np.testing.assert_allclose(softmax(np.array(logits) + shift), probabilities, atol=1e-9)


def test_softmax_by_hand():
    np.testing.assert_allclose(softmax(np.log([1.0, 2.0, 5.0])), [1 / 8, 2 / 8, 5 / 8])
    np.testing.assert_allclose(softmax(np.array([1e4, 0.0])), [1.0, 0.0])


@given(st.integers(0, 60), st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_fractions_and_floats_get_the_same_whole_numbers(total, weights):
    """As long as no two remainders are equal: then rounding of floats may decide."""
    exact = [Fraction(weight, sum(weights)) for weight in weights]
    counts = largest_remainder(total, exact)
    assert sum(counts) == total
    assert all(abs(count - share * total) < 1 for count, share in zip(counts, exact, strict=True))
    remainders = [share * total % 1 for share in exact]
    if len(set(remainders)) == len(remainders):
        assert largest_remainder(total, [float(share) for share in exact]) == counts


def test_of_equal_remainders_the_first_is_rounded_up():
    assert largest_remainder(1, [0.5, 0.5]) == [1, 0]
    assert largest_remainder(2, [Fraction(1, 4)] * 4) == [1, 1, 0, 0]

"""Common prefixes of token sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.utils.numeric import common_prefix_len

pytestmark = pytest.mark.quick

IDS = st.lists(st.integers(0, 2), max_size=12)


@given(IDS, IDS)
def test_equals_a_comparison_one_by_one(one: list[int], other: list[int]) -> None:
    expected = 0
    while expected < min(len(one), len(other)) and one[expected] == other[expected]:
        expected += 1
    assert common_prefix_len(np.array(one, np.int32), np.array(other, np.int32)) == expected

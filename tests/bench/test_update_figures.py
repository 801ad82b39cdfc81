"""What the times and sizes mean."""

import pytest
import torch

from treepo.bench.update import compare, relative_difference
from treepo.report.bench_results import UpdateMeasurement

PACKED = UpdateMeasurement("packed", 100, (1.0, 2.0, 4.0), (0.1, 0.1, 0.1), 1000, 1e-6)
PADDED = UpdateMeasurement("padded", 400, (3.0, 4.0, 12.0), (0.1, 0.1, 0.1), 2000, 0.0)


def test_ratios_are_to_packed_and_taken_round_by_round():
    """Ratios of the rounds 3, 2, 3: the median is 3, where the ratio of medians would be 4 / 2."""
    packed, padded = (compare(own, PACKED) for own in (PACKED, PADDED))
    assert (padded.token_ratio, padded.time_ratio, padded.time_of_ideal) == (4, 3, 0.75)
    assert (padded.memory_ratio, padded.memory_of_ideal) == (2, 0.5)
    assert (packed.token_ratio, packed.time_ratio, packed.time_of_ideal, packed.memory_of_ideal) == (1, 1, 1, 1)
    assert packed.gradient_difference == 1e-6


def test_gradient_differences_are_relative_to_the_largest_element():
    reference = [torch.tensor([1.0, -4.0]), torch.tensor([[2.0]])]
    own = [torch.tensor([1.5, -4.0]), torch.tensor([[3.0]])]
    assert relative_difference(own, reference) == pytest.approx(1 / 4)
    assert relative_difference(reference, reference) == 0

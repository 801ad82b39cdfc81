"""Synthetic trees have the sizes that are asked for."""

import numpy as np
import pytest

from tests.models import make_tiny_model
from treepo.bench.batches import synthetic_batch
from treepo.bench.settings import level_sizes
from treepo.learn.packing import pack
from treepo.learn.scoring import Scorer


@pytest.mark.parametrize("leaves", [2, 4, 16, 64])
@pytest.mark.parametrize("sharing", [1.2, 1.5, 2, 4, 8, 15])
def test_sizes_are_within_two_percent(leaves, sharing):
    if sharing >= leaves:
        with pytest.raises(ValueError, match=f"no tree of {leaves} leaves has 4000 distinct tokens"):
            level_sizes(4000, sharing, leaves)
        return
    sizes = level_sizes(4000, sharing, leaves)
    assert len(sizes) == leaves.bit_length()
    assert sum(sizes) == pytest.approx(4000, rel=0.02)
    total = sum(size * leaves / 2**level for level, size in enumerate(sizes))
    assert total == pytest.approx(sharing * 4000, rel=0.02)


def test_sizes_by_hand():
    """Four leaves, stretches of 10; the first one of 30, or the last ones of 20. Totals: 4 x 30, 4 x 50, 4 x 40."""
    assert level_sizes(70, 120 / 70, 4) == [10, 20, 40]
    assert level_sizes(90, 200 / 90, 4) == [30, 20, 40]
    assert level_sizes(110, 160 / 110, 4) == [10, 20, 80]


@pytest.mark.parametrize(("distinct", "sharing", "leaves"), [(4000, 2, 12), (40, 1.5, 16), (4000, 1, 16), (1, 1, 2)])
def test_trees_that_cannot_be_are_refused(distinct, sharing, leaves):
    with pytest.raises(ValueError, match="leaves"):
        level_sizes(distinct, sharing, leaves)


def test_trees_have_these_sizes_and_ratios_near_1():
    scorer = Scorer(make_tiny_model())
    sizes = level_sizes(400, 3, 8)
    batch = synthetic_batch(sizes, 3, scorer, max_tokens=500, seed=0)
    assert len(batch.trees) == 3 and batch.num_trajectories == 24
    assert batch.num_distinct == 3 * sum(sizes), "no siblings begin alike"
    assert batch.num_total / batch.num_distinct == pytest.approx(3, rel=0.02)
    for tree, advantages in zip(batch.trees, batch.advantages, strict=True):
        lengths = [len(t.token_ids) for t in tree.trajectories()]
        assert max(lengths) - min(lengths) <= 3, "balanced"
        assert advantages.values.min() < 0 < advantages.values.max()
        packed = pack(tree, advantages)
        log_ratios = scorer.logprobs([packed], 500)[0] - packed.sampled_logprobs
        assert 0.03 < np.std(log_ratios) < 0.07 and np.abs(log_ratios).max() < 0.25

"""All variants make the same update, each time from the same weights."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.models import make_tiny_model
from treepo.bench.batches import UpdateBatch, synthetic_batch
from treepo.bench.settings import UpdateBenchSettings, level_sizes
from treepo.bench.update import NAMES, UpdateVariant, make_variant, measure, relative_difference
from treepo.learn.scoring import Scorer
from treepo.tree import ROOT, Node, StopReason, Tree


def make_variants(batch: UpdateBatch, max_tokens: int, recompute: bool = False) -> list[UpdateVariant]:
    settings = UpdateBenchSettings(max_tokens_per_micro_batch=max_tokens, gradient_checkpointing=recompute)
    return [make_variant(name, make_tiny_model(), settings, batch) for name in NAMES]


def forked() -> UpdateBatch:
    """A prompt of 3, a shared stretch of 4, leaves of 2, 1 and 5 tokens below it; trajectories of 9, 8 and 12."""
    tree = Tree.from_prompt("p", np.array([3, 4, 5], np.int32), 0)

    def add(parent: int, ids: Sequence[int], stop: StopReason | None = None) -> int:
        return tree.add(Node(parent, np.array(ids, np.int32), np.full(len(ids), -2.5, np.float32), 0, stop))

    shared = add(ROOT, [6, 7, 8, 9])
    for ids in ([3, 4], [5], [6, 7, 8, 9, 10]):
        add(shared, ids, StopReason.EOS)
    return UpdateBatch([tree], [np.array([1.0, -0.5, 0.25])])


def synthetic() -> UpdateBatch:
    return synthetic_batch(level_sizes(200, 2.5, 8), 2, Scorer(make_tiny_model()), 1000, seed=0)


def test_tokens_by_hand():
    batch = forked()
    assert (batch.num_trajectories, batch.num_distinct, batch.num_total) == (3, 15, 29)
    for max_tokens, forwarded in (
        (100, [15, 3 * 12, 29]),
        # Padded: 12 alone, then rows of 9 and 8.
        (18, [15, 12 + 2 * 9, 29]),
        # Each leaf with its own copy of what is above it, but for the first two: 10 and 12 tokens.
        (12, [22, 12 + 9 + 8, 29]),
    ):
        variants = make_variants(batch, max_tokens)
        for variant in variants:
            variant.prepare()
            variant.run()
        assert [c.num_forwarded() for c in variants] == forwarded


@pytest.mark.parametrize(("max_tokens", "recompute"), [(1000, False), (90, False), (90, True)])
def test_gradients_agree(max_tokens, recompute):
    packed, padded, length_packed = make_variants(synthetic(), max_tokens, recompute)
    for variant in (packed, padded, length_packed):
        variant.prepare()
        variant.run()
    assert len(padded.gradients()) == len(padded.parameters)
    assert relative_difference(packed.gradients(), padded.gradients()) < 1e-4
    assert relative_difference(length_packed.gradients(), padded.gradients()) < 1e-4


def test_every_run_starts_from_the_same_weights():
    variant = make_variants(forked(), 100)[0]
    after = []
    for _ in range(3):
        variant.prepare()
        before = [p.detach().clone() for p in variant.parameters]
        assert all(map(torch.equal, before, variant.start.parameters()))
        variant.run()
        after.append([p.detach().clone() for p in variant.parameters])
        assert not all(map(torch.equal, before, after[-1]))
    for later in after[1:]:
        assert all(map(torch.equal, after[0], later))


def test_a_measurement_is_the_same_each_time_but_for_seconds():
    first, second = (measure(make_variants(synthetic(), 1000), 1, lambda *_: None) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert len(one.seconds) == len(one.pack_seconds) == 1
        assert all(packing < whole for packing, whole in zip(one.pack_seconds, one.seconds, strict=True))
        assert (one.num_forwarded, one.peak_bytes) == (other.num_forwarded, other.peak_bytes)
        assert one.gradient_difference == other.gradient_difference
    packed, padded, length_packed = first
    assert packed.peak_bytes < length_packed.peak_bytes and packed.peak_bytes < padded.peak_bytes

"""Whitening of a batch that two processes share."""

from pathlib import Path

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp

from treepo.credit import whiten
from treepo.learn.processes import sums_over

Batch = tuple[list[np.ndarray], list[np.ndarray]]


def batch() -> Batch:
    """Values far from 0, of which sums of squares would leave nothing."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 7)
    return [1e7 + rng.normal(size=n) for n in sizes], [rng.integers(0, 9, n) for n in sizes]


def share(batch: Batch, rank: int, num_first: int) -> Batch:
    """The first trees for process 0, the others for process 1."""
    part = slice(num_first) if rank == 0 else slice(num_first, None)
    return batch[0][part], batch[1][part]


def whiten_own(rank: int, folder: str) -> None:
    """One of two processes; the second time it has all trees or none."""
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    sums = sums_over(dist.new_group([0, 1]))
    for num_first in (3, 7):
        white = whiten(*share(batch(), rank, num_first), sums)
        np.save(f"{folder}/{num_first}-{rank}.npy", np.concatenate([np.zeros(0), *white]))
    dist.destroy_process_group()


def test_two_processes_whiten_as_one(tmp_path: Path) -> None:
    """Mean and variance are those of all tokens, however the trees are divided."""
    mp.spawn(whiten_own, args=(str(tmp_path),), nprocs=2)
    together = np.concatenate(whiten(*batch()))
    assert together.std() > 0.5
    for num_first in (3, 7):
        parts = [np.load(tmp_path / f"{num_first}-{rank}.npy") for rank in (0, 1)]
        np.testing.assert_allclose(np.concatenate(parts), together, rtol=0, atol=1e-7)
    assert len(parts[1]) == 0

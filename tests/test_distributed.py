"""Collectives of processes, and what a process raises when another one is gone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.processes import run_in
from treepo.credit.base import whiten
from treepo.distributed import SINGLE_PROCESS, DistContext, init_distributed, merge_shards, set_current_device
from treepo.errors import Interrupted, LostError, PeerError

Batch = tuple[list[np.ndarray], list[np.ndarray]]


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_what_is_dealt_out_comes_back_in_order(items, count):
    shares = [DistContext(rank, count).shard(items) for rank in range(count)]
    assert merge_shards(shares) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5), st.integers(0, 20))
def test_rounds_are_dealt_out_as_if_they_were_one(items, count, first):
    """The first so many in one round, the others in the next: the same shares, and so as even."""
    for rank in range(count):
        process = DistContext(rank, count)
        assert process.shard(items[:first]) + process.shard(items[first:], len(items[:first])) == process.shard(items)


def test_a_process_takes_its_gpu_before_it_meets_the_others(monkeypatch):
    """NCCL would otherwise connect all processes of a machine through its first GPU."""
    calls = []

    def meet(backend: str, **options: object) -> None:
        calls.append((backend, options["device_id"]))
        raise LostError("nobody else is here")

    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    with pytest.raises(LostError), init_distributed("cuda"):
        pass
    assert calls == [1, ("cpu:gloo,cuda:nccl", torch.device("cuda:1"))]
    set_current_device(torch.device("cuda:1"))
    set_current_device(torch.device("cpu"))
    assert calls[2:] == [torch.device("cuda:1")]


def test_one_alone_asks_nobody():
    values = np.arange(3.0)
    assert SINGLE_PROCESS.all_reduce(values) is values
    assert (SINGLE_PROCESS.all_gather(1), SINGLE_PROCESS.gather(1)) == ([1], [1])
    assert (SINGLE_PROCESS.broadcast(1), SINGLE_PROCESS.unshard([1, 2])) == (1, [1, 2])
    with pytest.raises(KeyError), SINGLE_PROCESS.synced_errors():
        raise KeyError


def batch() -> Batch:
    """Values far from 0, of which sums of squares would leave nothing."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 7)
    return [1e7 + rng.normal(size=n) for n in sizes], [rng.integers(0, 9, n) for n in sizes]


def share(batch: Batch, rank: int, num_first: int) -> Batch:
    """The first trees for process 0, the others for process 1."""
    part = slice(num_first) if rank == 0 else slice(num_first, None)
    return batch[0][part], batch[1][part]


def fail_together(processes: DistContext, error: BaseException | None) -> str:
    """What a process is told where one of them, the second, could not go on."""
    try:
        with processes.synced_errors():
            if processes.rank == 1 and error is not None:
                raise error
    except (PeerError, OSError, Interrupted) as caught:
        kinds = ",".join(getattr(caught, "kinds", ())[:2])
        return f"{type(caught).__name__} {caught} {kinds}"
    return "went on"


def talk(processes: DistContext, folder: Path) -> None:
    for num_first in (3, 7):
        white = whiten(*share(batch(), processes.rank, num_first), processes.all_reduce)
        np.save(f"{folder}/{num_first}-{processes.rank}.npy", np.concatenate([np.zeros(0), *white]))
    told = {
        "all_gather": processes.all_gather(f"of {processes.rank}"),
        "gather": processes.gather(processes.rank),
        "broadcast": processes.broadcast(f"of {processes.rank}"),
        "unshard": processes.unshard([processes.rank] * (2 - processes.rank)),
        "none": fail_together(processes, None),
        "disk": fail_together(processes, OSError("full")),
        "signal": fail_together(processes, Interrupted(15, is_urgent=False)),
    }
    (folder / f"{processes.rank}.json").write_text(json.dumps(told))
    if processes.rank == 1:
        os._exit(0)
    with pytest.raises(LostError, match="another process of this job ended or cannot be reached"):
        processes.all_gather(0)


def test_two_processes_talk(tmp_path):
    """Whitened values are those of all tokens, however the trees are divided; an error of one is told to the other, and
    one that ends without a word is missed."""
    run_in(2, talk, tmp_path)
    together = np.concatenate(whiten(*batch()))
    assert together.std() > 0.5
    for num_first in (3, 7):
        parts = [np.load(tmp_path / f"{num_first}-{rank}.npy") for rank in (0, 1)]
        np.testing.assert_allclose(np.concatenate(parts), together, rtol=0, atol=1e-7)
    assert len(parts[1]) == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    both = {"all_gather": ["of 0", "of 1"], "broadcast": "of 0", "unshard": [0, 1, 0], "none": "went on"}
    assert first == both | {
        "gather": [0, 1],
        "disk": "PeerError process 1 could not go on: full OSError,Exception",
        "signal": "PeerError process 1 could not go on: stopped by SIGTERM Interrupted,BaseException",
    }
    assert second == both | {"gather": [], "disk": "OSError full ", "signal": "Interrupted stopped by SIGTERM "}

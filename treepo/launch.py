"""The processes that torchrun started, joined to train together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from treepo.processes import ALONE, Processes
from treepo.settings import ProcessSettings


@dataclass(frozen=True)
class Job:
    """The processes of a run, and the device of this one.

    background: the same processes, over connections of their own, for what is done beside training. mesh: how the model
    is divided over them; None for a process that trains by itself.
    """

    device: str
    processes: Processes = ALONE
    background: Processes = ALONE
    mesh: DeviceMesh | None = None


@contextmanager
def joined(settings: ProcessSettings, device: str) -> Iterator[Job]:
    """Meet the other processes, if torchrun started more than one (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT in the environment say so), and part from them at the end.

    device: `model.device`. Raises ValueError naming the setting that does not fit.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Job(device)
        return
    if ":" in device:
        raise ValueError(
            f"model.device: with several processes each takes a GPU of its own: give 'cuda', got {device!r}"
        )
    size = settings.shard_size or count
    if count % size:
        raise ValueError(f"processes.shard_size must divide the {count} processes, got {size}")
    kind, backend = device, "gloo"
    if kind == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        device, backend = f"cuda:{local}", "cpu:gloo,cuda:nccl"
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"model.device: no GPU for process {local} of this machine, it has {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local)
    timeout = timedelta(seconds=settings.timeout_s)
    dist.init_process_group(backend, timeout=timeout)
    rank = dist.get_rank()
    training, background = (_processes(rank, count, timeout) for _ in range(2))
    shape, names = ((count,), ("shard",)) if size == count else ((count // size, size), ("replicate", "shard"))
    mesh = init_device_mesh(kind, shape, mesh_dim_names=names)
    is_over = False
    try:
        yield Job(device, training, background, mesh)
        is_over = True
    finally:
        # After an error NCCL may wait for what is left of the others.
        if is_over or kind == "cpu":
            dist.destroy_process_group()


def _processes(rank: int, count: int, timeout: timedelta) -> Processes:
    """All processes, with connections of their own."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), "this process is one of them"
    return Processes(rank, count, group)


def rank_of_environment() -> int:
    """This process's number in its job, before it has met the others."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0

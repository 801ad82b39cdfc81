"""The processes that train together, and their collectives."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from treepo.errors import Interrupted, LostError, PeerError, SettingError
from treepo.utils.foreign_errors import is_lost_process

T = TypeVar("T")


@contextmanager
def lost_as_error() -> Iterator[None]:
    """Raise LostError for a collective that fails because another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise LostError(str(error)) from error


@dataclass(frozen=True)
class DistContext:
    """This process's rank among those that train together, from 0 on; a single process by default.

    group: the gloo group that carries numbers and objects between them on the CPU. Every process has to call all
    methods but `shard`, in the same order.
    """

    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes the run's folder."""
        return self.rank == 0

    def shard(self, items: Sequence[T], start: int = 0) -> list[T]:
        """This process's share of items that are dealt out one by one. start: how many were dealt out before."""
        return list(items[(self.rank - start) % self.world_size :: self.world_size])

    def unshard(self, own: Sequence[T]) -> list[T]:
        """The shards of all processes, in the order in which `shard` dealt them out."""
        return merge_shards(self.all_gather(list(own)))

    @lost_as_error()
    def all_gather(self, item: T) -> list[T]:
        """The item of each process, by rank."""
        if self.world_size == 1:
            return [item]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, item, group=self.group)
        return found

    @lost_as_error()
    def gather(self, item: T) -> list[T]:
        """The item of each process, by rank, for the first; empty for the others."""
        if self.world_size == 1:
            return [item]
        found: list[Any] | None = [None] * self.world_size if self.is_first else None
        dist.gather_object(item, found, group=self.group, group_dst=0)
        return found or []

    @lost_as_error()
    def broadcast(self, item: T) -> T:
        """The item of the first process."""
        if self.world_size == 1:
            return item
        found: list[Any] = [item]
        dist.broadcast_object_list(found, group=self.group, group_src=0)
        return found[0]

    @lost_as_error()
    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """float64 [n] of each process -> [n], added up over all."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.group)
        return tensor.numpy()

    @contextmanager
    def synced_errors(self) -> Iterator[None]:
        """Each process does its own work here, and none continues before all are done.

        Where one raises, the others raise PeerError; of several errors the first process's counts for all. After a
        second signal a process ends at once.
        """
        if self.world_size == 1:
            yield
            return
        error: BaseException | None = None
        try:
            yield
        except (Exception, Interrupted) as caught:
            if isinstance(caught, Interrupted) and caught.is_urgent:
                raise
            error = caught
        report = None if error is None else (tuple(kind.__name__ for kind in type(error).__mro__), str(error))
        try:
            outcomes = self.all_gather(report)
        except LostError as lost:
            raise error or lost from lost
        rank, outcome = next(((i, found) for i, found in enumerate(outcomes) if found is not None), (self.rank, None))
        if error is not None and rank == self.rank:
            raise error
        if outcome is not None:
            raise PeerError(rank, *outcome) from error


SINGLE_PROCESS = DistContext()
"""A process that trains by itself."""


def merge_shards(shards: Sequence[Sequence[T]]) -> list[T]:
    """The shards of all processes, given by rank, in the order in which their items were dealt out."""
    found: list[Any] = [None] * sum(map(len, shards))
    for rank, shard in enumerate(shards):
        found[rank :: len(shards)] = shard
    return found


@dataclass(frozen=True)
class Job:
    """The processes of a run, and the device of this one.

    background: the same processes, over connections of their own, for what is done beside training. mesh: how the model
    is divided over them; None for a process that trains by itself.
    """

    device: str
    processes: DistContext = SINGLE_PROCESS
    background: DistContext = SINGLE_PROCESS
    mesh: DeviceMesh | None = None


def resolve_device(device: str) -> str:
    """The device that `model.device` stands for: for auto, cuda if it can be used, else cpu."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def count_processes(device: str, shard_size: int = 0) -> int:
    """The processes that torchrun started, 1 without it. Raises SettingError for settings that they cannot have."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and ":" in device:
        raise SettingError("model.device", "with several processes each takes a GPU of its own: give 'cuda'", device)
    if count > 1 and count % (shard_size or count):
        raise SettingError("processes.shard_size", f"must divide the {count} processes", shard_size)
    return count


def set_current_device(device: torch.device) -> None:
    """Let the kernels of this process run on a GPU: Triton's run on the current one, wherever their tensors are."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


@contextmanager
def init_distributed(device: str, shard_size: int = 0, timeout_s: float = 7200.0) -> Iterator[Job]:
    """Join the other processes, if torchrun started more than one (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT in the environment say so), and leave them at the end.

    device: `model.device`. Raises SettingError.
    """
    count, device = count_processes(device, shard_size), resolve_device(device)
    if count == 1:
        yield Job(device)
        return
    size = shard_size or count
    kind, backend = device, "gloo"
    if kind == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        device, backend = f"cuda:{local}", "cpu:gloo,cuda:nccl"
        if local >= torch.cuda.device_count():
            raise SettingError(
                "model.device", f"no GPU for process {local} of this machine, it has {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local)
    timeout = timedelta(seconds=timeout_s)
    # With a device NCCL connects now, where its errors are seen, and from the right GPU.
    dist.init_process_group(backend, timeout=timeout, device_id=torch.device(device) if kind == "cuda" else None)
    rank = dist.get_rank()
    training, background = (_new_context(rank, count, timeout) for _ in range(2))
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


def _new_context(rank: int, count: int, timeout: timedelta) -> DistContext:
    """All processes, with connections of their own."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), "this process is one of them"
    return DistContext(rank, count, group)

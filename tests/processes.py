"""Work that several processes do together, over gloo."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

from tests.runs import START_METHOD
from treepo.distributed import DistContext

Work = Callable[..., None]
"""(processes, folder, arguments): at the top of a module, since it is found by its name."""


def run_in(count: int, work: Work, folder: Path, *args: Any) -> None:
    """Do some work in so many processes at once, and raise what one of them raised."""
    mp.start_processes(_work, args=(count, work, folder, args), nprocs=count, start_method=START_METHOD)


def _work(rank: int, count: int, work: Work, folder: Path, args: tuple[Any, ...]) -> None:
    store = dist.FileStore(f"{folder}/store", count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=60))
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    work(DistContext(rank, count, group), folder, *args)
    dist.destroy_process_group()


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return where | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def join_job(rank: int, count: int, port: int) -> None:
    """Make this process one of a job."""
    os.environ.update(environment(rank, count, port))

"""What two processes wrote of a sharded model, one reads."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard

from tests.runs import START_METHOD
from treepo.learn.optim import make_optimizer
from treepo.learn.settings import OptimSettings
from treepo.learn.train_state import TrainState, save_tensors


def make_train_state(is_sharded: bool = False) -> TrainState:
    """Three rows over two processes: the shards differ in size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    if is_sharded:
        fully_shard(model)
    return TrainState(model, *make_optimizer(model, OptimSettings(lr=0.1)))


def step(train_state: TrainState) -> None:
    train_state.model(torch.linspace(-1, 1, 20).reshape(5, 4)).square().mean().backward()
    train_state.optimizer.step()
    train_state.optimizer.zero_grad()
    train_state.schedule.step()


def save_own(rank: int, folder: str) -> None:
    """One of two processes."""
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    train_state = make_train_state(is_sharded=True)
    step(train_state)
    save_tensors(Path(folder) / "saved", train_state.copy_tensors(), dist.group.WORLD)
    dist.destroy_process_group()


def test_one_process_goes_on_with_what_two_have_saved(tmp_path):
    """Weights and moments that were sharded by FSDP2 are whole again, through the same calls."""
    mp.start_processes(save_own, args=(str(tmp_path),), nprocs=2, start_method=START_METHOD)
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) == 2
    expected = make_train_state()
    step(expected)
    found = make_train_state()
    found.restore(tmp_path / "saved", expected.scalars())
    for _ in range(2):
        for name, tensor in expected.copy_tensors().items():
            torch.testing.assert_close(found.copy_tensors()[name], tensor, rtol=1e-6, atol=1e-8)
        step(expected)
        step(found)

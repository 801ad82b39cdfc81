"""What several processes need, in one: NCCL on this GPU, gloo beside it, and a sharded model."""

from copy import deepcopy

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import PreTrainedModel

from gpu_checks.checks import TINY_SHAPE, Checks
from gpu_checks.runs import CONTEXT
from gpu_checks.updating import comb
from treepo.learn.packing import pack
from treepo.learn.scoring import Scorer, collate
from treepo.model.fsdp import full_tensor, shard

LONGEST_S = 60.0
"""NCCL that finds no way waits instead of failing."""


def nccl(checks: Checks) -> None:
    """Collectives and a sharded model's gradients in a process of its own; over gloo on the CPU."""
    device = str(checks.device) if checks.is_tiny else f"cuda:{torch.cuda.current_device()}"
    with CONTEXT.Pool(1) as pool:
        backend, found, diff = pool.apply_async(joined, (device,)).get(LONGEST_S)
    checks.add("nccl/collectives", found, f"two of a single process, over {backend}", found == ["here", 10.0])
    checks.add("nccl/gradient_diff", diff, "at most 1e-4: sharded against whole", diff <= 1e-4)


def joined(name: str) -> tuple[str, list[object], float]:
    """What a single process that joins as several do gets: (backend, from collectives, how far gradients differ)."""
    device = torch.device(name)
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if is_gpu else "gloo"
    device_id = device if is_gpu else None
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, device_id=device_id)
    try:
        objects: list[object] = [None]
        total = torch.full((1,), 10.0, device=device)
        dist.all_gather_object(objects, "here", group=dist.new_group(backend="gloo"))
        dist.all_reduce(total)
        model = Checks(device, LONGEST_S).model(torch.float32, **TINY_SHAPE)
        sharded = deepcopy(model)
        shard(sharded, init_device_mesh(device.type, (1,)))
        whole = gradients(model)
        diff = (gradients(sharded) - whole).norm() / whole.norm()
        return backend, [*objects, total.item()], diff.item()
    finally:
        dist.destroy_process_group()


def gradients(model: PreTrainedModel) -> torch.Tensor:
    """Of the sum of a packed tree's log-probabilities."""
    part = pack(comb(0, 8, 50, 9), np.ones(8))
    Scorer(model)(collate([part])).policy_logprobs.sum().backward()
    return torch.cat([full_tensor(p.grad).flatten() for p in model.parameters() if p.grad is not None])

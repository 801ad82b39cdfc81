"""The least time of a decoding step: its matrix products by themselves, and each key and value that any path sees read
once, as fast as the device copies."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gpu_checks.checks import Checks
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import bytes_per_token
from treepo.engine.torch.lookahead import padded_size
from treepo.model.forward import FusedForward


def floor_seconds(checks: Checks, engine: TorchEngine) -> float:
    """Of one step of the requests that run now."""
    assert isinstance(engine.forward, FusedForward)
    num_bytes = num_distinct_slots(engine) * bytes_per_token(engine.model, engine.cache_dtype)
    num_rows = padded_size(engine.rows.num_running)
    return products_seconds(checks, engine.forward, num_rows) + num_bytes / checks.copy_bandwidth


def num_distinct_slots(engine: TorchEngine) -> int:
    """How many tokens' keys and values the running requests see, those of common prefixes counted once."""
    rows = engine.rows
    seen = [rows.slots[row, : rows.num_known[row] - 1] for row in rows.running()]
    return len(np.unique(np.concatenate(seen)))


@torch.no_grad()
def products_seconds(checks: Checks, forward: FusedForward, num_rows: int) -> float:
    """Of all matrix products of a step, in their order, as the engine computes them; with CUDA in one graph."""
    work = _products(forward, num_rows)
    if checks.is_tiny:
        return checks.timed(work)
    # The first time chooses kernels, which cannot be captured.
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return checks.timed(graph.replay)


def _products(forward: FusedForward, num_rows: int) -> Callable[[], None]:
    config, device = forward.model.config, forward.model.device
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def random(width: int) -> Tensor:
        return torch.randn(num_rows, width, device=device).to(forward.dtype)

    hidden, inner = random(config.hidden_size), random(config.intermediate_size)
    attended = random(config.num_attention_heads * size)

    def work() -> None:
        for layer in forward.layers:
            layer.qkv(hidden)
            layer.o(attended)
            layer.gate_up(hidden)
            layer.down(inner)
        forward.head(hidden)

    return work

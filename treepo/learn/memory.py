"""Memory: how many tokens a forward may have once it ran out, and the metrics of what takes it."""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from treepo.engine.base import Engine
from treepo.model.fsdp import to_local

REMEDIES = (
    "shorten responses (tree.depth, tree.segment_len) or prompts (data.max_prompt_len), or set "
    "train.gradient_checkpointing, train.autocast or lora.rank"
)


@dataclass
class MemoryLimit:
    """What is known since memory ran out: the most tokens of a forward, None before; and how often it did."""

    max_tokens: int | None = None
    num_oom: int = 0

    def lower(self, tried: int, longest: int, reason: str) -> None:
        """Set the limit to half of what was tried, but at least to the longest trajectory, which cannot be split.

        reason: what the allocator said. Raises MemoryError, with the settings to change, if that was tried already.
        """
        self.num_oom += 1
        if tried <= longest:
            raise MemoryError(
                f"train.max_tokens_per_micro_batch: out of memory at {tried} tokens, and the longest trajectory has "
                f"{longest}; {REMEDIES} ({reason})"
            )
        self.max_tokens = max(tried // 2, longest)


def reset_peak(device: torch.device) -> None:
    """Measure `peak_bytes` from now on; on the CPU it stays the peak of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most bytes taken at a time: by tensors on a GPU since `reset_peak`, else by the resident process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_metrics(model: PreTrainedModel, optimizer: Optimizer) -> dict[str, float]:
    """memory/*, in bytes: the peak, and what weights, gradients and the optimizer's state take."""
    weights = list(model.parameters())
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    return {
        "memory/peak_bytes": peak_bytes(model.device),
        "memory/weights": num_bytes(weights),
        "memory/gradients": num_bytes([p.grad for p in weights if p.grad is not None]),
        "memory/optimizer": num_bytes(state),
    }


def cache_metrics(engine: Engine) -> dict[str, float]:
    """Return memory/engine_cache, the bytes of the engine's keys and values, if it knows."""
    return {} if engine.cache_bytes is None else {"memory/engine_cache": engine.cache_bytes}


def num_bytes(tensors: Sequence[Tensor]) -> int:
    """The bytes of all their elements that lie on this process."""
    return sum(to_local(tensor).nbytes for tensor in tensors)

"""What memory is taken by, and what is done when it runs out."""

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

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What allocators say that have no exception class of their own: PyTorch's for the CPU, cuBLAS."""

REMEDIES = (
    "shorten responses (tree.depth, tree.segment_len) or prompts (data.max_prompt_len), or set "
    "train.gradient_checkpointing, train.autocast or lora.rank"
)


@dataclass
class MemoryBound:
    """What was learnt when memory ran out: the most tokens of a forward, None before; and how often it did."""

    max_tokens: int | None = None
    num_oom: int = 0

    def lower(self, tried: int, longest: int, reason: str) -> None:
        """Half of what was tried, though no less than the longest trajectory, which cannot be cut.

        Raises MemoryError with what to change if that was tried already. reason: what the allocator said.
        """
        self.num_oom += 1
        if tried <= longest:
            raise MemoryError(
                f"train.max_tokens_per_micro_batch: out of memory at {tried} tokens, and the longest trajectory has {longest}; "
                f"{REMEDIES} ({first_line(reason)})"
            )
        self.max_tokens = max(tried // 2, longest)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on a GPU or on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in SIGNS)


def first_line(text: str) -> str:
    """The first line, cut after 200 characters."""
    return text.strip().partition("\n")[0][:200]


def begin_peak(device: torch.device) -> None:
    """From now on `peak_bytes` is what is taken from now on; on the CPU it stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most bytes taken at a time: of tensors on a GPU since `begin_peak`, else of the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_metrics(model: PreTrainedModel, optimizer: Optimizer) -> dict[str, float]:
    """memory/*, in bytes: the peak, and what weights, gradients and the optimiser's state take."""
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
    """Of all their elements that lie on this process."""
    return sum(to_local(tensor).nbytes for tensor in tensors)

"""From logits to the log-probabilities and entropies of targets, with their gradient, in little memory.

Letters: P rows of logits · V vocabulary · S targets.
"""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHARE = 16
"""Logits held at a time, with their gradient, take at most this fraction of the memory: one sixteenth."""

UNKNOWN_BYTES = 1 << 32
"""Memory of a machine that does not say how much it has."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may take."""

BLOCK_ELEMENTS = {"cpu": 1 << 18}
"""Logits worked on together in float32: on the CPU as many as stay in its caches."""

OTHER_BLOCK_ELEMENTS = 1 << 26


def affordable_logits(device: torch.device, dtype: torch.dtype, num_processes: int = 1) -> int:
    """Logits that may be held at a time, in a type, with their gradient.

    Part of all memory, not of what is free: the order of sums depends on it, and a run that is done again, or goes on
    after a stop, has to find the same. num_processes: those that share the memory of the CPU.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // (SHARE * 2 * dtype.itemsize)
    return _host_bytes() // (SHARE * num_processes * 2 * dtype.itemsize)


def _host_bytes() -> int:
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        return UNKNOWN_BYTES
    texts = [path.read_text().strip() for path in CGROUP_LIMITS if path.is_file()]
    # Without a limit the file says "max".
    return min(found + [int(text) for text in texts if text.isdecimal()])


def score_targets(
    logits: Tensor, places: Tensor, target_ids: Tensor, temperature: float, entropy_has_grad: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [S] under softmax(logits / temperature), computed and returned in float32, or in
    float64 for logits in it.

    logits [P, V]; places [S]: the row of each target, never decreasing; target_ids [S]. Both passes widen a block of
    rows at a time, so that nothing but the logits and their gradient, in their own type, has the size of them.
    """
    scores = _TargetScores.apply(logits, places, target_ids, temperature, entropy_has_grad)
    assert isinstance(scores, tuple)
    return scores


class _TargetScores(torch.autograd.Function):
    """With p = softmax(z), z = logits / temperature, H its entropy, t a target of the row: d log p_t / dz = 1_t - p and
    dH / dz = -p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, places: Tensor, target_ids: Tensor, temperature: float, entropy_has_grad: bool
    ) -> tuple[Tensor, Tensor]:
        log_sums, entropies = [], []
        for block in _blocks(logits):
            z = _wide(logits[block], temperature)
            most = z.amax(-1, keepdim=True)
            weights = (z - most).exp_()
            total = weights.sum(-1)
            log_sums.append(most[:, 0] + total.log())
            # No vecdot: autocast would compute it in half precision.
            entropies.append(log_sums[-1] - weights.mul_(z).sum(-1) / total)
        log_sum, entropy = torch.cat(log_sums), torch.cat(entropies)
        ctx.save_for_backward(logits, places, target_ids, log_sum, entropy)
        ctx.temperature, ctx.entropy_has_grad = temperature, entropy_has_grad
        logprobs = _wide(logits[places, target_ids], temperature) - log_sum[places]
        entropies = entropy[places]
        if not entropy_has_grad:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # Asked for once: where logits are recomputed, a second time is an error.
        logits, places, target_ids, log_sum, entropy = ctx.saved_tensors
        logprob_grads, entropy_grads = grads
        by_row = torch.zeros_like(log_sum).index_add_(0, places, logprob_grads)
        entropy_by_row = torch.zeros_like(log_sum)
        if ctx.entropy_has_grad:
            entropy_by_row.index_add_(0, places, entropy_grads)
        logits_grad = torch.empty_like(logits)
        blocks = list(_blocks(logits))
        # Of all blocks at once: the host waits for a GPU each time it asks.
        bounds = torch.searchsorted(places, places.new_tensor([*(block.start for block in blocks), len(logits)]))
        for block, (first, last) in zip(blocks, pairwise(bounds.tolist()), strict=True):
            z = _wide(logits[block], ctx.temperature).sub_(log_sum[block, None])
            # z is log p here.
            grad = -by_row[block, None]
            if ctx.entropy_has_grad:
                grad = grad - entropy_by_row[block, None] * (z + entropy[block, None])
            grad = z.exp_().mul_(grad)
            own = places[first:last] - block.start, target_ids[first:last]
            grad.index_put_(own, logprob_grads[first:last], accumulate=True)
            logits_grad[block] = grad if ctx.temperature == 1 else grad.div_(ctx.temperature)
        return logits_grad, None, None, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    num_rows, vocab_size = logits.shape
    step = max(1, BLOCK_ELEMENTS.get(logits.device.type, OTHER_BLOCK_ELEMENTS) // vocab_size)
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _wide(logits: Tensor, temperature: float) -> Tensor:
    """A new tensor of logits / temperature, in float32 or float64."""
    wide = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32, copy=True)
    return wide if temperature == 1 else wide.div_(temperature)

"""Attention over packed trees on the CPU, with its gradient: tree_attention.c, called through ctypes.

Letters: N tokens · H query heads · G key-value heads · D head size.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

TILE_ROWS = 36
"""Queries worked on together, times the heads that share a key. 24 to 72 differ little."""

GRADIENTS = ("out_grad", "q_grad", "k_grad", "v_grad")
"""Arguments of the kernel that are null in the forward."""


class CpuTreeAttention:
    """TreeAttention on the CPU, in float32 whatever the type of its arguments; each pair of a token and one above it
    costs what it costs in a sequence.

    offsets: where each tree starts in the packed sequence, and the end of the last: [num_trees + 1].
    positions: int64 [N], depth of each token in its tree; in depth-first order it says which tokens are above.
    """

    def __init__(self, kernels: SimpleNamespace, offsets: list[int], positions: np.ndarray) -> None:
        self.kernels = kernels
        self.positions = positions.astype(np.int32)
        bounds = np.stack([offsets[:-1], offsets[1:]], axis=1).astype(np.int32)
        # Large trees first, so that no thread is left with one at the end.
        self.bounds = np.ascontiguousarray(bounds[np.argsort(bounds[:, 0] - bounds[:, 1], kind="stable")])
        self.longest = int(positions.max()) + 1

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        size = max(key.shape[-1], value.shape[-1])
        # Where keys and values differ in size, zeros make them alike and change nothing.
        filled = (pad(x, (0, size - x.shape[-1])) if x.shape[-1] < size else x for x in (query, key, value))
        q, k, v = (x[0].transpose(0, 1).float().contiguous() for x in filled)
        output = _TreeAttention.apply(q, k, v, self, scale, window or 0)
        assert isinstance(output, Tensor)
        return output[..., : value.shape[-1]].to(query.dtype)

    def run(self, scale: float, window: int, **tensors: Tensor) -> None:
        """Run the kernel: q, k, v, out and lse (log-sum-exp) for the forward; for the backward also the gradients
        out_grad, q_grad, k_grad and v_grad."""
        (_, num_heads, size), num_groups = tensors["q"].shape, tensors["k"].shape[1]
        tile = max(1, TILE_ROWS * num_groups // num_heads)
        num_threads = min(torch.get_num_threads(), len(self.bounds) * num_groups)
        sizes = {"H": num_heads, "G": num_groups, "D": size, "tile": tile, "longest": self.longest}
        scratch_len = self.kernels.scratch_size(**sizes, backward="out_grad" in tensors)
        scratch = torch.zeros(num_threads * scratch_len)
        self.kernels.tree_attention(
            **sizes,
            **dict.fromkeys(GRADIENTS) | {name: _address(tensor) for name, tensor in tensors.items()},
            positions=self.positions.ctypes.data,
            bounds=self.bounds.ctypes.data,
            num_trees=len(self.bounds),
            window=window,
            scale=scale,
            num_threads=num_threads,
            scratch_len=scratch_len,
            scratch=scratch.data_ptr(),
        )


class _TreeAttention(torch.autograd.Function):
    """q [N, H, D], k, v [N, G, D] -> [N, H, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, attention: CpuTreeAttention, scale: float, window: int
    ) -> Tensor:
        output, log_sums = torch.empty_like(q), q.new_empty(q.shape[:2])
        attention.run(scale, window, q=q, k=k, v=v, out=output, lse=log_sums)
        ctx.save_for_backward(q, k, v, output, log_sums)
        ctx.settings = attention, scale, window
        return output

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> Any:
        attention, scale, window = ctx.settings
        # Asked for once: where activations are recomputed, a second time is an error.
        q, k, v, output, log_sums = ctx.saved_tensors
        grads = {f"{name}_grad": torch.empty_like(x) for name, x in (("q", q), ("k", k), ("v", v))}
        out_grad = output_grads[0].contiguous()
        attention.run(scale, window, q=q, k=k, v=v, out=output, lse=log_sums, out_grad=out_grad, **grads)
        return (*grads.values(), None, None, None)


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous() and tensor.dtype == torch.float32
    return tensor.data_ptr()

"""tree_attention.c, called through ctypes: attention over packed trees on the CPU, with its gradient.

Letters: N tokens · H query heads · G key-value heads · D head size.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from treepo.model.kernels.compile import load_library

TILE_ROWS = 36
"""Queries worked on together, times the heads that share a key. 24 to 72 differ little."""

_INT, _LONG, _FLOAT, _AT = ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_void_p


@cache
def load_tree_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built."""
    library = load_library("tree_attention.c")
    if library is not None:
        library.scratch_size.argtypes = [*[_INT] * 4, _LONG, _INT]
        library.scratch_size.restype = _LONG
        library.tree_attention.argtypes = [
            *(*[_INT] * 3, *[_AT] * 11, _INT, _LONG, _INT, _INT, _FLOAT, _INT, _LONG, _AT),
        ]
        library.tree_attention.restype = None
    return library


class CpuTreeAttention:
    """TreeAttention on the CPU, in float32 whatever the type of its arguments; each pair of a token and one above it
    costs what it costs in a sequence.

    offsets: where each tree starts in the packed sequence, and the end of the last: [num_trees + 1].
    positions: int64 [N], depth of each token in its tree; with the depth-first order they say who is above whom.
    """

    def __init__(self, library: ctypes.CDLL, offsets: list[int], positions: np.ndarray) -> None:
        self.library = library
        self.positions = positions.astype(np.int32)
        bounds = np.stack([offsets[:-1], offsets[1:]], axis=1).astype(np.int32)
        # Large trees first, so that no thread is left with one at the end.
        self.bounds = np.ascontiguousarray(bounds[np.argsort(bounds[:, 0] - bounds[:, 1], kind="stable")])
        self.longest = int(positions.max()) + 1

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """See AttentionContext."""
        size = max(key.shape[-1], value.shape[-1])
        # Where keys and values differ in size, zeros make them alike and change nothing.
        filled = (pad(x, (0, size - x.shape[-1])) if x.shape[-1] < size else x for x in (query, key, value))
        q, k, v = (x[0].transpose(0, 1).float().contiguous() for x in filled)
        output = _TreeAttention.apply(q, k, v, self, scale, window or 0)
        assert isinstance(output, Tensor)
        return output[..., : value.shape[-1]].to(query.dtype)

    def call(self, arrays: tuple[Tensor | None, ...], scale: float, window: int) -> None:
        """Run the kernel; arrays: q, k, v, output, log-sum-exp; for the backward the gradients of output, q, k, v."""
        q, k = arrays[:2]
        assert q is not None and k is not None
        (_, num_heads, size), num_groups = q.shape, k.shape[1]
        tile = max(1, TILE_ROWS * num_groups // num_heads)
        num_threads = min(torch.get_num_threads(), len(self.bounds) * num_groups)
        room = self.library.scratch_size(num_heads, num_groups, size, tile, self.longest, arrays[5] is not None)
        scratch = torch.zeros(num_threads * room)
        self.library.tree_attention(
            *(num_heads, num_groups, size, *map(_at, arrays), self.positions.ctypes.data, self.bounds.ctypes.data),
            *(len(self.bounds), self.longest, tile, window, scale, num_threads, room, scratch.data_ptr()),
        )


class _TreeAttention(torch.autograd.Function):
    """q [N, H, D], k, v [N, G, D] -> [N, H, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, attention: CpuTreeAttention, scale: float, window: int
    ) -> Tensor:
        output, log_sums = torch.empty_like(q), q.new_empty(q.shape[:2])
        attention.call((q, k, v, output, log_sums, None, None, None, None), scale, window)
        ctx.save_for_backward(q, k, v, output, log_sums)
        ctx.settings = attention, scale, window
        return output

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> Any:
        attention, scale, window = ctx.settings
        # Asked for once: where activations are recomputed, a second time is an error.
        kept = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in kept[:3]]
        attention.call((*kept, output_grads[0].contiguous(), *grads), scale, window)
        return (*grads, None, None, None)


def _at(tensor: Tensor | None) -> int | None:
    assert tensor is None or (tensor.is_contiguous() and tensor.dtype == torch.float32)
    return None if tensor is None else tensor.data_ptr()

"""A decoder's operations between matrix products in Triton, for GPUs: one launch each, where torch takes two to six.

With few paths a step is mostly launches of small kernels, also in a CUDA graph. Numbers are float32 within a kernel,
and rounded to the tensors' types where they are stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from treepo.model.forward import TorchOperations

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (Triton kernels are launched by indexing them, and computed with as if they were tensors)

TILE = 1024
"""Numbers that a program of 4 warps works on at a time; more only where a row is longer."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


class TritonOperations(TorchOperations):
    """Operations of tensors on GPUs whose last dimension is contiguous."""

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        # Heads may be parts of wider rows; hidden states, which are changed in place, are not.
        assert added is None or x.is_contiguous()
        x, added = x.contiguous(), None if added is None else added.contiguous()
        output, size = torch.empty_like(x, dtype=dtype), x.shape[-1]
        num_rows, padded = x.numel() // size, triton.next_power_of_2(size)
        rows = max(1, TILE // padded)
        options = OPTIONS | {"num_warps": 8 if padded > 4 * TILE else 4}
        constants = {"HAS_ADDED": added is not None, "ROWS": rows, "D": size, "PADDED": padded}
        arguments = x, x if added is None else added, weight, output, eps, num_rows
        _add_norm[(triton.cdiv(num_rows, rows),)](*arguments, **constants, **options)
        return output

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> None:
        (n, num_heads, size), num_groups = query.shape, key.shape[1]
        assert query.stride()[1:] == key.stride()[1:] == (size, 1) and cos.is_contiguous() and sin.is_contiguous()
        half = triton.next_power_of_2(size // 2)
        heads = max(1, TILE // half)
        grid = n, triton.cdiv(num_heads, heads) + triton.cdiv(num_groups, heads)
        arguments = query, key, cos, sin, query.stride(0), key.stride(0), num_heads, num_groups
        _rotate[grid](*arguments, HEADS=heads, D=size, HALF=half, **OPTIONS)

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        n, size = gate.shape
        assert gate.stride(1) == up.stride(1) == 1
        output = torch.empty(n, size, dtype=gate.dtype, device=gate.device)
        grid = n, triton.cdiv(size, TILE)
        _gate[grid](gate, up, output, gate.stride(0), up.stride(0), size, TILE=TILE, **OPTIONS)
        return output


@triton.jit(do_not_specialize=("num_rows",))
def _add_norm(
    x, added, weight, output, eps, num_rows,
    HAS_ADDED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row, d = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)[None, :]
    inside = (row < num_rows) & (d < D)
    at = row.to(tl.int64) * D + d
    value = tl.load(x + at, mask=inside, other=0.0)
    if HAS_ADDED:
        value = (value.to(tl.float32) + tl.load(added + at, mask=inside, other=0.0).to(tl.float32)).to(value.dtype)
        tl.store(x + at, value, mask=inside)
    value = value.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(value * value, 1, keep_dims=True) / D + eps)
    value = value * scale * tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(output + at, value.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    query, key, cos, sin, query_stride, key_stride, num_heads, num_groups,
    HEADS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token, part, num_parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.cdiv(num_heads, HEADS)
    is_query = part < num_parts
    x = tl.where(is_query, query + token * query_stride, key + token * key_stride)
    head = tl.where(is_query, part, part - num_parts) * HEADS + tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, HALF)[None, :]
    inside = (head < tl.where(is_query, num_heads, num_groups)) & (d < D // 2)
    low_at, high_at = x + head * D + d, x + head * D + D // 2 + d
    low, high = tl.load(low_at, mask=inside, other=0.0), tl.load(high_at, mask=inside, other=0.0)
    is_there = d < D // 2
    angle = token * D + d
    low_cos, low_sin = tl.load(cos + angle, mask=is_there, other=0.0), tl.load(sin + angle, mask=is_there, other=0.0)
    angle += D // 2
    high_cos, high_sin = tl.load(cos + angle, mask=is_there, other=0.0), tl.load(sin + angle, mask=is_there, other=0.0)
    a, b = low.to(tl.float32), high.to(tl.float32)
    tl.store(low_at, (a * low_cos.to(tl.float32) + b * low_sin.to(tl.float32)).to(low.dtype), mask=inside)
    tl.store(high_at, (b * high_cos.to(tl.float32) + a * high_sin.to(tl.float32)).to(low.dtype), mask=inside)


@triton.jit
def _gate(gate, up, output, gate_stride, up_stride, size, TILE: tl.constexpr):
    token, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = d < size
    g = tl.load(gate + token * gate_stride + d, mask=inside, other=0.0)
    x, u = g.to(tl.float32), tl.load(up + token * up_stride + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + token * size + d, (x / (1 + tl.exp(-x)) * u).to(g.dtype), mask=inside)

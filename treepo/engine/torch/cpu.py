"""The engine's attention, and a decoder's operations between matrix products, in C for CPUs."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from treepo.engine.torch.attention import BlockTable, GatherKernel
from treepo.engine.torch.kv_cache import BLOCK
from treepo.model.forward import TorchOperations

TILE = 16
"""Queries that a thread works on at a time; see decode_attention.c."""


class CpuKernel(GatherKernel, TorchOperations):
    """Attention and a decoder's operations in C, for contiguous float32 tensors on the CPU; what comes from matrix
    products and goes into them may be bfloat16."""

    dtype = torch.float32
    keys_transposed = True

    def __init__(self, kernels: SimpleNamespace) -> None:
        self.kernels = kernels
        self.scratch = np.zeros(0, np.float32)
        self.table: BlockTable | None = None
        self.addresses: dict[str, int] = {}

    def supports(self, key: Tensor, value: Tensor) -> bool:
        return key.shape[2] % BLOCK == 0 and key.shape[2] == value.shape[2]

    def store(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: np.ndarray) -> None:
        self.kernels.store(*key.shape, _data(key), _data(value), _data(keys), _data(values), _address(slots))

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, table: BlockTable, scale: float, window: int | None
    ) -> Tensor:
        # The table is that of all layers of a forward: its addresses are looked up once.
        if self.table is not table:
            arrays = {name: getattr(table, name) for name in ("starts", "counts", "rows", "lens", "bounds")}
            self.table, self.addresses = table, {name: _address(array) for name, array in arrays.items()}
        n, num_heads, size = query.shape
        output = torch.empty_like(query)
        num_spans, num_threads = table.starts.shape[1], len(table.bounds) - 1
        scratch_len = num_threads * TILE * num_heads * (num_spans * BLOCK + size)
        if len(self.scratch) < scratch_len:
            self.scratch = np.empty(scratch_len, np.float32)
        self.kernels.attend(
            N=n,
            H=num_heads,
            G=keys.shape[1],
            D=size,
            q=_data(query),
            keys=_data(keys),
            values=_data(values),
            out=_data(output),
            E=num_spans,
            num_threads=num_threads,
            window=window or 0,
            scale=scale,
            scratch=_address(self.scratch),
            **self.addresses,
        )
        return output

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        output, size = torch.empty_like(x, dtype=dtype), x.shape[-1]
        if dtype != torch.float32 and size % BLOCK:
            return super().add_norm(x, added, weight, eps, dtype)
        run = self.kernels.add_norm_bfloat16 if dtype == torch.bfloat16 else self.kernels.add_norm
        added_data = None if added is None else _data(added, dtype)
        run(x.numel() // size, size, _data(x), added_data, _data(weight), eps, _data(output, dtype))
        return output

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> None:
        for x in (query, key):
            self.kernels.rotate(*x.shape, _data(x), _data(cos), _data(sin))

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        (n, size), stride, dtype = gate.shape, gate.stride(0), gate.dtype
        if size % BLOCK:
            return super().gate(gate, up)
        assert gate.stride() == up.stride() == (stride, 1) and up.dtype == dtype
        output = torch.empty(n, size, dtype=dtype)
        run = self.kernels.gate_bfloat16 if dtype == torch.bfloat16 else self.kernels.gate
        run(n, size, stride, gate.data_ptr(), up.data_ptr(), _data(output, dtype))
        return output


def _data(tensor: Tensor, dtype: torch.dtype = torch.float32) -> int:
    assert tensor.is_contiguous() and tensor.dtype == dtype
    return tensor.data_ptr()


def _address(array: np.ndarray) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data

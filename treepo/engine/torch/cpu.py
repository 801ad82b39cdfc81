"""The engine's attention and other operations of a decoding step on the CPU: decode_attention.c, called by ctypes."""

import numpy as np
import torch
from torch import Tensor

from treepo.engine.torch.attention import BlockTable
from treepo.engine.torch.kv_cache import BLOCK
from treepo.model.kernels.compile import Kernels

TILE = 16
"""Queries that a thread works on at a time; see decode_attention.c."""


class CpuKernel:
    """Kernel and Operations for contiguous float32 tensors on the CPU."""

    def __init__(self, kernels: Kernels) -> None:
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

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        output = torch.empty_like(x)
        size = x.shape[-1]
        added_data = None if added is None else _data(added)
        self.kernels.add_norm(x.numel() // size, size, _data(x), added_data, _data(weight), eps, _data(output))
        return output

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        self.kernels.rotate(*x.shape, _data(x), _data(cos), _data(sin))

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """Overwrite `gate`, which has a multiple of 8 numbers."""
        assert gate.numel() % BLOCK == 0
        self.kernels.gate(gate.numel(), _data(gate), _data(up))
        return gate


def _data(tensor: Tensor) -> int:
    assert tensor.is_contiguous() and tensor.dtype == torch.float32
    return tensor.data_ptr()


def _address(array: np.ndarray) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data

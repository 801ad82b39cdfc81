"""decode_attention.c and the other kernels of a decoding step, called through ctypes."""

import ctypes
from functools import cache

import numpy as np
import torch
from torch import Tensor

from treepo.engine.torch.attention import Table
from treepo.engine.torch.kv_cache import BLOCK
from treepo.model.kernels.compile import load_library

TILE = 16
"""Queries that a thread works on at a time; see decode_attention.c."""

_INT, _LONG, _FLOAT, _AT = ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_void_p
_ARGUMENTS = {
    "attend": [*[_INT] * 4, *[_AT] * 6, _LONG, *[_AT] * 3, _INT, _INT, _FLOAT, _AT],
    "store": [*[_INT] * 3, *[_AT] * 5],
    "add_norm": [_INT, _INT, *[_AT] * 3, _FLOAT, _AT],
    "rotate": [*[_INT] * 3, *[_AT] * 3],
    "gate": [_LONG, _AT, _AT],
}


@cache
def load_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built."""
    library = load_library("decode_attention.c")
    if library is not None:
        for name, arguments in _ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
            getattr(library, name).restype = None
    return library


class CpuKernel:
    """Calls the kernel on contiguous float32 tensors on the CPU; see Kernel and Operations."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.scratch = np.zeros(0, np.float32)
        self.table: Table | None = None
        self.addresses: list[int] = []

    def serves(self, key: Tensor, value: Tensor) -> bool:
        """Heads of one size, a multiple of 8."""
        return key.shape[2] % BLOCK == 0 and key.shape[2] == value.shape[2]

    def store(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: np.ndarray) -> None:
        """See Kernel."""
        self.library.store(*key.shape, _at(key), _at(value), _at(keys), _at(values), _address(slots))

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, table: Table, scale: float, window: int | None
    ) -> Tensor:
        """See Kernel."""
        if self.table is not table:
            self.addresses = [_address(x) for x in (table.starts, table.counts, table.rows, table.lens, table.bounds)]
            self.table = table
        n, num_heads, size = query.shape
        output = torch.empty_like(query)
        num_extents, num_threads = table.starts.shape[1], len(table.bounds) - 1
        room = num_threads * TILE * num_heads * (num_extents * BLOCK + size)
        if len(self.scratch) < room:
            self.scratch = np.empty(room, np.float32)
        starts, counts, rows, lens, bounds = self.addresses
        self.library.attend(
            *(n, num_heads, keys.shape[1], size, _at(query), _at(keys), _at(values), _at(output)),
            *(starts, counts, num_extents, rows, lens, bounds, num_threads),
            *(window or 0, scale, _address(self.scratch)),
        )
        return output

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """x [N, D] += added, in place; returns the RMS norm of x."""
        output = torch.empty_like(x)
        size = x.shape[-1]
        added_at = None if added is None else _at(added)
        self.library.add_norm(x.numel() // size, size, _at(x), added_at, _at(weight), eps, _at(output))
        return output

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotary positions in place: x [N, H, D], cos and signed sin [N, D]."""
        self.library.rotate(*x.shape, _at(x), _at(cos), _at(sin))

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) x up, in the place of gate; a multiple of 8 numbers."""
        assert gate.numel() % BLOCK == 0
        self.library.gate(gate.numel(), _at(gate), _at(up))
        return gate


def _at(tensor: Tensor) -> int:
    assert tensor.is_contiguous() and tensor.dtype == torch.float32
    return tensor.data_ptr()


def _address(array: np.ndarray) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data

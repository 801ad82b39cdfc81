"""Which slots each query of a forward sees."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treepo.engine.torch.kv_cache import BLOCK, KVCache

WORTH_A_THREAD = 2048
"""Key visits (queries x their lengths) below which a second thread costs more than it saves."""


class Table:
    """Query i sees the first lens[i] slots of row rows[i].

    starts, counts int32 [R, E]: per row its slots as extents. slots int32 [R, C]: the same, slot by slot. rows, lens
    int32 [N]. bounds int32 [threads + 1]: where each thread's queries begin.
    """

    def __init__(
        self, starts: np.ndarray, counts: np.ndarray, slots: np.ndarray, rows: np.ndarray, lens: np.ndarray
    ) -> None:
        self.starts, self.counts, self.slots = starts, counts, slots
        self.rows, self.lens = rows.astype(np.int32), lens.astype(np.int32)
        self.bounds = shares(self.lens, torch.get_num_threads())


def shares(lens: np.ndarray, num_threads: int) -> np.ndarray:
    """int32 [threads + 1]: where each thread's queries begin, so that all read about as many keys."""
    visits = np.cumsum(lens)
    num_threads = max(1, min(num_threads, int(visits[-1]) // WORTH_A_THREAD))
    inner = np.searchsorted(visits, visits[-1] * np.arange(1, num_threads) / num_threads)
    return np.concatenate([[0], inner, [len(lens)]]).astype(np.int32)


MAX_GATHERED = 1 << 22
"""Most keys that GatherKernel lays side by side at a time."""


class Kernel(Protocol):
    """Stores keys and values in slots, and attends over them."""

    def serves(self, key: Tensor, value: Tensor) -> bool:
        """Whether it can do so for keys and values [N, G, D] of this size and type."""
        ...

    def store(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: np.ndarray) -> None:
        """Put key, value [N, G, D] into slots int32 [N] of keys [B, G, D, 8], values [B, G, 8, D]."""
        ...

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, table: Table, scale: float, window: int | None
    ) -> Tensor:
        """[N, H, D] -> [N, H, D]: each query over the slots that the table says, or the last `window` of them."""
        ...


class GatherKernel:
    """In torch, on any device: the keys of each token's sequence are gathered side by side. The others are compared
    with this one."""

    def serves(self, key: Tensor, value: Tensor) -> bool:
        return True

    def store(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: np.ndarray) -> None:
        at = torch.from_numpy(slots).to(key.device).long()
        keys[at // BLOCK, :, :, at % BLOCK] = key
        values[at // BLOCK, :, at % BLOCK] = value

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, table: Table, scale: float, window: int | None
    ) -> Tensor:
        step = max(1, MAX_GATHERED // int(table.lens.max()))
        parts = [
            self._attend_part(query[i : i + step], keys, values, table, slice(i, i + step), scale, window)
            for i in range(0, len(query), step)
        ]
        return torch.cat(parts)

    def _attend_part(
        self, q: Tensor, keys: Tensor, values: Tensor, table: Table, part: slice, scale: float, window: int | None
    ) -> Tensor:
        rows, lens = table.rows[part], table.lens[part]
        longest = int(lens.max())
        slots = torch.from_numpy(table.slots[rows, :longest]).to(q.device).long()
        ahead = torch.from_numpy(lens).to(q.device)[:, None] - 1 - torch.arange(longest, device=q.device)
        visible = (ahead >= 0) if window is None else (ahead >= 0) & (ahead < window)
        slots = slots.masked_fill(~visible, 0)
        k = keys[slots // BLOCK, :, :, slots % BLOCK].transpose(1, 2)
        v = values[slots // BLOCK, :, slots % BLOCK].transpose(1, 2)
        # Query heads that share a key head become the query rows of one attention call: [N, G, H / G, D].
        grouped = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        output = scaled_dot_product_attention(grouped, k, v, attn_mask=visible[:, None, None], scale=scale)
        return output.reshape(len(q), q.shape[1], -1)


class SlotAttention:
    """Stores the new keys and values in their slots, then lets each token see its sequence up to itself.

    table: per token, the slots that it sees. new_slots: int32, of the tokens at `new` (a token whose keys and values
    are there already is only asked for its logits).
    """

    def __init__(self, pool: KVCache, kernel: Kernel, table: Table, new: np.ndarray, new_slots: np.ndarray) -> None:
        self.pool = pool
        self.kernel = kernel
        self.table = table
        self.new_slots = new_slots
        self.new = None if len(new) == len(table.rows) else torch.from_numpy(new)

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        q, k, v = self._rows(query), self._rows(key), self._rows(value)
        if self.new is not None:
            self.new = self.new.to(k.device)
            k, v = k[self.new], v[self.new]
        kernel = self.kernel if self.kernel.serves(k, v) else GatherKernel()
        keys, values = self.pool.layer(layer, k, v)
        kernel.store(k, v, keys, values, self.new_slots)
        return kernel.attend(q, keys, values, self.table, scale, window).to(query.dtype)

    def _rows(self, x: Tensor) -> Tensor:
        """[1, H, N, D] -> [N, H, D], in the type that the pool keeps."""
        rows = x[0].transpose(0, 1).contiguous()
        return rows if self.pool.dtype in (None, rows.dtype) else rows.to(self.pool.dtype)

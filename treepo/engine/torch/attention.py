"""What the queries of one forward of the engine see: the slots of their own sequence, each stored once for all.

Letters: N tokens of one forward · H query heads · G key-value heads · D head size · T longest sequence among them.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treepo.engine.torch.kernel import CpuKernel, Table
from treepo.engine.torch.pool import BLOCK, KeyValuePool

MAX_GATHERED = 1 << 22
"""Most keys that are gathered at a time where there is no kernel."""


class SlotAttention:
    """Stores the new keys and values in their slots, then lets each token see its sequence up to itself.

    table: per token, the slots that it sees. new_slots: int32, of the tokens at `new` (a token whose keys and values
    are there already is only asked for its logits).
    """

    def __init__(
        self, pool: KeyValuePool, kernel: CpuKernel | None, table: Table, new: np.ndarray, new_slots: np.ndarray
    ) -> None:
        self.pool = pool
        self.kernel = kernel
        self.table = table
        self.new_slots = new_slots
        self.new = None if len(new) == len(table.rows) else torch.from_numpy(new)

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        if self.new is not None:
            at = self.new.to(k.device)
            k, v = k[at], v[at]
        if self.kernel is None or k.shape[2] % BLOCK or v.shape[2] != k.shape[2]:
            return self._gathered(layer, q, k, v, scale, window)
        q, k, v = (x.contiguous().float() for x in (q, k, v))
        keys, values = self.pool.layer(layer, k, v)
        self.kernel.store(k, v, keys, values, self.new_slots)
        return self.kernel.attend(q, keys, values, self.table, scale, window).to(query.dtype)

    def _gathered(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """The same in torch, on any device: the keys of each token's sequence are gathered side by side."""
        keys, values = self.pool.layer(layer, k, v)
        slots = torch.from_numpy(self.new_slots).to(k.device).long()
        keys[slots // BLOCK, :, :, slots % BLOCK] = k
        values[slots // BLOCK, :, slots % BLOCK] = v
        step = max(1, MAX_GATHERED // int(self.table.lens.max()))
        parts = [
            self._gathered_part(slice(i, i + step), q[i : i + step], keys, values, scale, window)
            for i in range(0, len(q), step)
        ]
        return torch.cat(parts)

    def _gathered_part(
        self, part: slice, q: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None
    ) -> Tensor:
        rows, lens = self.table.rows[part], self.table.lens[part]
        longest = int(lens.max())
        slots = torch.from_numpy(self.table.slots[rows, :longest]).to(q.device).long()
        ahead = torch.from_numpy(lens).to(q.device)[:, None] - 1 - torch.arange(longest, device=q.device)
        visible = (ahead >= 0) if window is None else (ahead >= 0) & (ahead < window)
        slots = slots.masked_fill(~visible, 0)
        k = keys[slots // BLOCK, :, :, slots % BLOCK].transpose(1, 2)
        v = values[slots // BLOCK, :, slots % BLOCK].transpose(1, 2)
        # Query heads that share a key head become the query rows of one attention call: [N, G, H / G, D].
        grouped = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        output = scaled_dot_product_attention(grouped, k, v, attn_mask=visible[:, None, None], scale=scale)
        return output.reshape(len(q), q.shape[1], -1)

"""Attention over the engine's KV cache: which slots each query sees, and the kernels that read them.

Letters: N queries · H query heads · G key-value heads · D head size · B blocks · R rows · C slots of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treepo.engine.torch.kv_cache import BLOCK, KVCache
from treepo.engine.transfer import send

MIN_KEYS_PER_THREAD = 2048
"""Keys read (queries x their lengths) below which a second thread costs more than it saves."""

MAX_GATHERED = 1 << 22
"""Most keys that GatherKernel lays side by side at a time."""


class BlockTable:
    """Query i sees the first lens[i] slots of row rows[i].

    starts, counts int32 [R, E]: the slots of each row as spans. slots int32 [R, C]: the same, slot by slot. rows, lens
    int32 [N]. bounds int32 [threads + 1]: where each thread's queries begin, so that all read about as many keys.
    changed int64 [K]: places in the flat slots that were set after the forward before; all may have been if None.
    """

    def __init__(
        self,
        *,
        starts: np.ndarray,
        counts: np.ndarray,
        slots: np.ndarray,
        rows: np.ndarray,
        lens: np.ndarray,
        changed: np.ndarray | None = None,
    ) -> None:
        self.starts, self.counts, self.slots, self.changed = starts, counts, slots, changed
        self.rows, self.lens = rows.astype(np.int32), lens.astype(np.int32)
        num_keys = np.cumsum(self.lens)
        num_threads = max(1, min(torch.get_num_threads(), int(num_keys[-1]) // MIN_KEYS_PER_THREAD))
        inner = np.searchsorted(num_keys, num_keys[-1] * np.arange(1, num_threads) / num_threads)
        self.bounds = np.concatenate([[0], inner, [len(lens)]]).astype(np.int32)


@dataclass(frozen=True, eq=False)
class SlotTable:
    """On the device: query i sees the first lens[i] slots of row rows[i].

    slots int32 [R, C]; rows, lens int32 [N]. tiles int32 [T, 4], in_tiles int32 [N]: which queries read slots together,
    and how many slots of each; see `query_tiles`. max_len: no query sees more slots; known to the host.
    """

    slots: Tensor
    rows: Tensor
    lens: Tensor
    tiles: Tensor
    in_tiles: Tensor
    max_len: int


class GatherKernel:
    """Stores keys and values in slots, and attends over them: in torch, on any device.

    It gathers the keys of each query's row side by side. Other kernels inherit from it and are tested against it.
    keys_transposed: whether keys are stored as [B, G, D, 8]; else as values are, [B, G, 8, D]. is_capturable: whether
    `store_at` and `attend_at` are the same launches whatever the lengths, which a CUDA graph can repeat.
    """

    keys_transposed = False
    is_capturable = False

    def supports(self, key: Tensor, value: Tensor) -> bool:
        """Return whether it can store keys and values [N, G, D] of this size and type."""
        return True

    def store(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: np.ndarray) -> None:
        """Put key, value [N, G, D] into slots int32 [N] of keys and values."""
        self.store_at(key, value, keys, values, torch.from_numpy(slots).to(key.device))

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, table: BlockTable, scale: float, window: int | None
    ) -> Tensor:
        """Return [N, H, D]: attention of each query [N, H, D] over its slots, or the last `window` of them."""
        step = max(1, MAX_GATHERED // int(table.lens.max()))
        outputs = []
        for first in range(0, len(query), step):
            part = slice(first, first + step)
            rows, lens = table.rows[part], table.lens[part]
            slots = torch.from_numpy(table.slots[rows, : lens.max()]).to(query.device)
            lens = torch.from_numpy(lens).to(query.device)
            outputs.append(_attend_gathered(query[part], keys, values, slots, lens, scale, window))
        return torch.cat(outputs)

    def send_table(
        self, slots: np.ndarray, changed: np.ndarray | None, others: Sequence[np.ndarray], device: torch.device
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the slots of all rows on a device, and other arrays that are sent with them; see DeviceTable."""
        on_device, *sent = send([slots, *others], device)
        return on_device, sent

    def store_at(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Do what `store` does with slots that are on the device."""
        at = slots.long()
        keys[at // BLOCK, :, at % BLOCK] = key
        values[at // BLOCK, :, at % BLOCK] = value

    def attend_at(
        self, query: Tensor, keys: Tensor, values: Tensor, table: SlotTable, scale: float, window: int | None
    ) -> Tensor:
        """Do what `attend` does with a table that is on the device, for which the host does not wait."""
        step = max(1, MAX_GATHERED // table.max_len)
        outputs = []
        for first in range(0, len(query), step):
            part = slice(first, first + step)
            slots = table.slots[table.rows[part].long(), : table.max_len]
            outputs.append(_attend_gathered(query[part], keys, values, slots, table.lens[part], scale, window))
        return torch.cat(outputs)


def _attend_gathered(
    query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lens: Tensor, scale: float, window: int | None
) -> Tensor:
    """Attention of queries [N, H, D] over the first lens int32 [N] of slots int32 [N, C]."""
    slots = slots.long()
    distances = lens[:, None] - 1 - torch.arange(slots.shape[1], device=query.device)
    visible = (distances >= 0) if window is None else (distances >= 0) & (distances < window)
    slots = slots.masked_fill(~visible, 0)
    k = keys[slots // BLOCK, :, slots % BLOCK].transpose(1, 2)
    v = values[slots // BLOCK, :, slots % BLOCK].transpose(1, 2)
    # Query heads that share a key head become the query rows of one attention call: [N, G, H / G, D].
    grouped = query.reshape(len(query), k.shape[1], -1, query.shape[-1])
    output = scaled_dot_product_attention(grouped, k, v, attn_mask=visible[:, None, None], scale=scale)
    return output.reshape(len(query), query.shape[1], -1)


class CachedAttention:
    """The AttentionContext of a forward of the engine: stores new keys and values, then each token sees its row.

    table: the slots that each token sees. new int64: tokens whose keys and values are stored, in new_slots int32 (the
    other tokens' are cached; they are computed again for their logits).
    """

    def __init__(
        self, cache: KVCache, kernel: GatherKernel, table: BlockTable, new: np.ndarray, new_slots: np.ndarray
    ) -> None:
        self.cache = cache
        self.kernel = kernel
        self.table = table
        self.new_slots = new_slots
        self.new = None if len(new) == len(table.rows) else new
        self.new_on_device: Tensor | None = None

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        q, k, v = (_tokens_first(x, self.cache.dtype) for x in (query, key, value))
        if self.new is not None:
            if self.new_on_device is None:
                [self.new_on_device] = send([self.new], k.device)
            k, v = k[self.new_on_device], v[self.new_on_device]
        kernel = self.kernel if self.kernel.supports(k, v) else GatherKernel()
        keys, values = self.cache.layer(layer, k, v, keys_transposed=kernel.keys_transposed)
        kernel.store(k, v, keys, values, self.new_slots)
        return kernel.attend(q, keys, values, self.table, scale, window).to(query.dtype)


class DeviceAttention:
    """The AttentionContext of a decoding step whose places are all on the device: one token per row.

    new_slots int32 [N]: where the tokens' keys and values are stored.
    """

    def __init__(self, cache: KVCache, kernel: GatherKernel, table: SlotTable, new_slots: Tensor) -> None:
        self.cache = cache
        self.kernel = kernel
        self.table = table
        self.new_slots = new_slots

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        q, k, v = (_tokens_first(x, self.cache.dtype) for x in (query, key, value))
        keys, values = self.cache.layer(layer, k, v)
        self.kernel.store_at(k, v, keys, values, self.new_slots)
        return self.kernel.attend_at(q, keys, values, self.table, scale, window).to(query.dtype)


def _tokens_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[1, H, N, D] -> [N, H, D], in a type."""
    return x[0].transpose(0, 1).contiguous().to(dtype)

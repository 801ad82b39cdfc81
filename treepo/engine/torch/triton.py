"""The engine's attention in Triton, for GPUs: keys are read where they are stored, no sequence is copied.

Letters: N queries · H query heads · G key-value heads · R = H / G · D head size · T slots at a time.
"""

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from treepo.engine.torch.attention import BlockTable, GatherKernel, SlotTable
from treepo.engine.torch.device_table import DeviceTable
from treepo.engine.torch.kv_cache import BLOCK
from treepo.engine.transfer import send

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (Triton kernels are launched by indexing them)


MAX_SLOTS = 64
"""Most slots that a program reads at a time."""

TILE_BYTES = 1 << 14
"""Bytes of the keys that it reads at a time. With values, and with the next ones that are copied meanwhile, they fit
into the shared memory of every GPU since Ampere: 99 KiB on the smallest."""

MAX_SPLITS = 16
"""Most programs that share a sequence, where few long ones would leave processors without work."""

MIN_ROWS = 16
"""Fewest rows of a matrix product in Triton."""

OPTIONS = {"enable_fp_fusion": True}
"""Of the compiler; whether products and sums are fused by default depends on Triton's version."""

STORE_OPTIONS = OPTIONS | {"num_warps": 1}
"""A program stores one head of one token: with more threads each would store two bytes."""


class TritonKernel(GatherKernel):
    """Attention on GPUs. Slots go to the device once per forward, not once per layer."""

    is_capturable = True

    def __init__(self) -> None:
        self.device_table = DeviceTable()
        self.table: BlockTable | None = None
        self.table_on_device: tuple[Tensor, ...] = ()
        self.new_slots: np.ndarray | None = None
        self.new_on_device: Tensor | None = None

    def supports(self, key: Tensor, value: Tensor) -> bool:
        return key.shape[2] == value.shape[2]

    def store(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: np.ndarray) -> None:
        if self.new_slots is not slots or self.new_on_device is None:
            self.new_slots, [self.new_on_device] = slots, send([slots], key.device)
        self.store_at(key, value, keys, values, self.new_on_device)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, table: BlockTable, scale: float, window: int | None
    ) -> Tensor:
        if self.table is not table:
            slots, queries = self.send_table(table.slots, table.changed, [table.rows, table.lens], query.device)
            self.table, self.table_on_device = table, (slots, *queries)
        return self.attend_at(query, keys, values, SlotTable(*self.table_on_device, 0), scale, window)

    def send_table(
        self, slots: np.ndarray, changed: np.ndarray | None, others: Sequence[np.ndarray], device: torch.device
    ) -> tuple[Tensor, list[Tensor]]:
        return self.device_table.update(slots, changed, others, device)

    def store_at(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        n, heads, size = key.shape
        sizes = {"D": size, "PADDED": triton.next_power_of_2(size), "LANES": BLOCK}
        _store[n, heads](key, value, keys, values, slots, heads, **sizes, **STORE_OPTIONS)

    def attend_at(
        self, query: Tensor, keys: Tensor, values: Tensor, table: SlotTable, scale: float, window: int | None
    ) -> Tensor:
        n, num_heads, size = query.shape
        num_groups = keys.shape[1]
        splits = num_splits(n * num_groups, self.num_processors(query.device))
        output = torch.empty_like(query)
        parts = query.new_empty(splits, n, num_heads, size, dtype=torch.float32) if splits > 1 else output
        logsums = query.new_empty(splits, n, num_heads, dtype=torch.float32) if splits > 1 else output
        sizes = tile_sizes(num_heads // num_groups, size, keys.element_size())
        places = table.slots, table.rows, table.lens, table.slots.shape[1]
        arguments = query, keys, values, parts, logsums, *places, num_groups, scale, window or 0
        _attend[n, num_groups, splits](*arguments, **sizes, SPLITS=splits, **OPTIONS)
        if splits > 1:
            _merge[n, num_heads](parts, logsums, output, SPLITS=splits, D=size, PADDED=sizes["PADDED"], **OPTIONS)
        return output

    def num_processors(self, device: torch.device) -> int:
        """Return how many programs a GPU runs side by side at least."""
        return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def num_splits(num_programs: int, num_processors: int) -> int:
    """Return how many programs share a sequence, a power of two: two per processor in all."""
    splits = 1
    while splits < MAX_SPLITS and 2 * splits * num_programs <= 2 * num_processors:
        splits *= 2
    return splits


def tile_sizes(heads_per_group: int, head_size: int, itemsize: int) -> dict[str, int]:
    """Return the constants with which `_attend` is compiled; itemsize: bytes of each number of keys and values."""
    padded = max(MIN_ROWS, triton.next_power_of_2(head_size))
    return {
        "R": heads_per_group,
        "ROWS": max(MIN_ROWS, triton.next_power_of_2(heads_per_group)),
        "D": head_size,
        "PADDED": padded,
        "SLOTS": min(MAX_SLOTS, max(MIN_ROWS, TILE_BYTES // (padded * itemsize))),
        "LANES": BLOCK,
    }


@triton.jit
def _store(key, value, keys, values, slots, num_groups, D: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr):
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + token).to(tl.int64)
    d = tl.arange(0, PADDED)
    source = (token * num_groups + group) * D + d
    block = (slot // LANES * num_groups + group) * D * LANES
    lane = slot % LANES
    target = block + lane * D + d
    tl.store(keys + target, tl.load(key + source, mask=d < D), mask=d < D)
    tl.store(values + target, tl.load(value + source, mask=d < D), mask=d < D)


@triton.jit
def _attend(
    query, keys, values, output, logsums, slots, rows, lens, row_len, num_groups, scale, window,
    R: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, SLOTS: tl.constexpr,
    LANES: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, end = tl.load(rows + token).to(tl.int64), tl.load(lens + token)
    begin = tl.where(window > 0, tl.maximum(end - window, 0), 0)
    r, d = tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)
    at = (token * num_groups * R + group * R + r) * D + d[None, :]
    inside = (r < R) & (d[None, :] < D)
    q = tl.load(query + at, mask=inside, other=0.0)
    top = tl.full([ROWS, 1], float("-inf"), tl.float32)
    total = tl.zeros([ROWS, 1], tl.float32)
    mixed = tl.zeros([ROWS, PADDED], tl.float32)
    low, high = begin // SLOTS * SLOTS, end
    if SPLITS > 1:
        # Whole tiles; of a short sequence some programs have none.
        share = tl.cdiv(end - low, SPLITS * SLOTS) * SLOTS
        low += tl.program_id(2) * share
        high = tl.minimum(low + share, end)
    for first in range(low, high, SLOTS):
        place = first + tl.arange(0, SLOTS)
        seen = (place >= begin) & (place < end)
        slot = tl.load(slots + row * row_len + place, mask=seen, other=0).to(tl.int64)
        block, lane = (slot // LANES * num_groups + group) * D * LANES, slot % LANES
        # Keys and values have one layout, the head size innermost: a thread copies 16 bytes at a time.
        stored = block[:, None] + lane[:, None] * D + d[None, :]
        wanted = seen[:, None] & (d[None, :] < D)
        k = tl.load(keys + stored, mask=wanted, other=0.0)
        s = tl.where(seen[None, :], tl.dot(q, tl.trans(k), input_precision="ieee") * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1, keep_dims=True))
        weights = tl.exp(s - higher)
        fade = tl.exp(top - higher)
        v = tl.load(values + stored, mask=wanted, other=0.0)
        mixed = mixed * fade + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * fade + tl.sum(weights, 1, keep_dims=True)
        top = higher
    if SPLITS == 1:
        tl.store(output + at, (mixed / total).to(q.dtype), mask=inside)
    else:
        part = tl.program_id(2).to(tl.int64) * tl.num_programs(0) * num_groups * R
        tl.store(output + part * D + at, mixed / tl.maximum(total, 1e-30), mask=inside)
        head = part + token * num_groups * R + group * R + r
        tl.store(logsums + head, top + tl.log(total), mask=r < R)


@triton.jit
def _merge(parts, logsums, output, SPLITS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr):
    """Add parts up, each times its share of the sum of all weights."""
    num_heads = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    head = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    split, d = tl.arange(0, SPLITS), tl.arange(0, PADDED)
    logsum = tl.load(logsums + split * num_heads + head)
    weights = tl.exp(logsum - tl.max(logsum, 0))
    at = (split[:, None] * num_heads + head) * D + d[None, :]
    part = tl.load(parts + at, mask=d[None, :] < D, other=0.0)
    mixed = tl.sum(part * weights[:, None], 0) / tl.sum(weights, 0)  # pyright: ignore[reportOperatorIssue]
    tl.store(output + head * D + d, mixed.to(output.dtype.element_ty), mask=d < D)

"""The engine's attention in Triton, for GPUs: keys are read where they are stored, no sequence is copied.

Slots that several queries see, those of one prompt or of paths with a common prefix, are read once for a tile of them;
each query then attends over its other slots, and the parts are merged by log-sum-exp (cascade attention).
Letters: N queries · H query heads · G key-value heads · R = H / G · D head size · T tiles · P parts.
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
from treepo.engine.torch.query_tiles import MAX_QUERIES, query_tiles
from treepo.engine.torch.triton_operations import TritonOperations
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

MAX_PARTS = 2 * MAX_SPLITS
"""Most parts of a query's attention: of a tile, and its own."""

MIN_ROWS = 16
"""Fewest rows of a matrix product in Triton."""

MAX_HEADS = 8
"""Most query heads for which a program reads the slots of a tile; the others of their key head have their own. A single
one in float32: its products are sums in a thread's own numbers, and of more rows it has no room for them."""

QUERY_BYTES = 1 << 15
"""Bytes of the queries of a tile, which share memory with keys and values."""

MAX_TILE = 1 << 13
"""Most numbers of a tile's output for 4 warps, 64 to a thread."""

OPTIONS = {"enable_fp_fusion": True}
"""Of the compiler; whether products and sums are fused by default depends on Triton's version."""

CHANGING = ("row_len", "num_queries", "window", "tile_splits", "splits")
"""Numbers that change from forward to forward. Triton would compile a kernel for those that are 1, one for multiples of
16, and one for the others, each for seconds."""

STORE_OPTIONS = OPTIONS | {"num_warps": 1}
"""A program stores one head of one token: with more threads each would store two bytes."""


class TritonKernel(GatherKernel, TritonOperations):
    """Attention on GPUs, and a decoder's operations. Slots go to the device once per forward, not once per layer."""

    is_capturable = True

    def __init__(self) -> None:
        self.device_table = DeviceTable()
        self.table: BlockTable | None = None
        self.table_on_device: SlotTable | None = None
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
            tiles = query_tiles(table.slots, table.rows, table.lens)
            slots, queries = self.send_table(table.slots, table.changed, [table.rows, table.lens, *tiles], query.device)
            self.table, self.table_on_device = table, SlotTable(slots, *queries, max_len=0)
        assert self.table_on_device is not None
        return self.attend_at(query, keys, values, self.table_on_device, scale, window)

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
        num_groups, num_tiles = keys.shape[1], len(table.tiles)
        num_processors = self.num_processors(query.device)
        own = tile_sizes(num_heads // num_groups, size, keys.element_size())
        tiled = tile_sizes(num_heads // num_groups, size, keys.element_size(), MAX_QUERIES)
        num_programs = num_groups * triton.cdiv(num_heads // num_groups, tiled["HEADS"])
        own_splits = num_splits(n * num_groups, num_processors)
        # Each split is memory for all queries: few tiles among many are split as if all queries were in tiles.
        num_programs_at_least = max(num_tiles, n // MAX_QUERIES) * num_programs
        tile_splits = num_splits(num_programs_at_least, num_processors) if num_tiles else 0
        num_parts = own_splits + tile_splits
        output = torch.empty_like(query)
        parts, logsums = output[None], output[None]
        if num_parts > 1:
            parts = query.new_empty(num_parts, n, num_heads, size, dtype=torch.float32)
            logsums = query.new_empty(num_parts, n, num_heads, dtype=torch.float32)
        places = table.slots, table.rows, table.lens, table.in_tiles, table.tiles
        numbers = table.slots.shape[1], n, num_groups, scale, window or 0
        if num_tiles:
            arguments = query, keys, values, parts, logsums, *places, *numbers
            options = options_of(tiled, keys.element_size())
            _attend[num_tiles, num_programs, tile_splits](*arguments, **tiled, IS_PART=True, **options)
        arguments = query, keys, values, parts[tile_splits:], logsums[tile_splits:], *places, *numbers
        options = options_of(own, keys.element_size())
        _attend[n, num_groups, own_splits](*arguments, **own, IS_PART=num_parts > 1, **options)
        if num_parts > 1:
            arguments = parts, logsums, output, table.lens, table.in_tiles, tile_splits, own_splits
            _merge[n, num_heads](*arguments, PARTS=MAX_PARTS, D=size, PADDED=own["PADDED"], **OPTIONS)
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


def tile_sizes(heads_per_group: int, head_size: int, itemsize: int, num_queries: int = 1) -> dict[str, int]:
    """Return the constants with which `_attend` is compiled for tiles of so many queries; itemsize: bytes of each
    number of keys and values."""
    padded = max(MIN_ROWS, triton.next_power_of_2(head_size))
    heads = heads_per_group
    if num_queries > 1:
        most = max(1, min(MAX_HEADS, QUERY_BYTES // (num_queries * padded * itemsize))) if itemsize <= 2 else 1
        # As many for each program.
        heads = triton.cdiv(heads, triton.cdiv(heads, most))
    return {
        "R": heads_per_group,
        "HEADS": heads,
        "QUERIES": num_queries,
        "ROWS": max(MIN_ROWS, triton.next_power_of_2(num_queries * heads)),
        "D": head_size,
        "PADDED": padded,
        "SLOTS": min(MAX_SLOTS, max(MIN_ROWS, TILE_BYTES // (padded * itemsize))),
        "LANES": BLOCK,
    }


def options_of(sizes: dict[str, int], itemsize: int) -> dict[str, int]:
    """Return the compiler's options for these sizes: so many threads that each holds its share of the queries and of
    what is summed in registers."""
    is_large = sizes["ROWS"] > 64 or sizes["ROWS"] * sizes["PADDED"] > MAX_TILE
    stages = {"num_stages": 2} if sizes["QUERIES"] > 1 else {}
    return OPTIONS | {"num_warps": 8 if is_large or itemsize > 2 else 4} | stages


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


@triton.jit(do_not_specialize=CHANGING)
def _attend(
    query, keys, values, output, logsums, slots, rows, lens, in_tiles, tiles,
    row_len, num_queries, num_groups, scale, window,
    R: tl.constexpr, HEADS: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
    PADDED: tl.constexpr, SLOTS: tl.constexpr, LANES: tl.constexpr, IS_PART: tl.constexpr,
):  # fmt: skip
    """Attention of the queries of a tile over its slots, or of one query over those that no tile has read for it."""
    pieces: tl.constexpr = (R + HEADS - 1) // HEADS
    group, piece = tl.program_id(1) // pieces, tl.program_id(1) % pieces
    count, begin = 1, 0
    if QUERIES > 1:
        tile = tiles + tl.program_id(0) * 4
        token, count, row, end = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    else:
        token = tl.program_id(0)
        row, end, begin = tl.load(rows + token), tl.load(lens + token), tl.load(in_tiles + token)
    num_left = end - begin
    # A row of the products is a head of a query.
    r, d = tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)
    head = piece * HEADS + r % HEADS
    is_row = (r // HEADS < count) & (head < R)
    num_seen = tl.load(lens + token + r // HEADS, mask=is_row, other=0)
    first_seen = tl.where(window > 0, tl.maximum(num_seen - window, 0), 0)
    begin = tl.maximum(begin, tl.min(tl.where(is_row, first_seen, end)))
    at = ((token + r // HEADS).to(tl.int64) * num_groups + group) * R + head
    inside = is_row & (d[None, :] < D)
    q = tl.load(query + at * D + d[None, :], mask=inside, other=0.0)
    # Rows may see none of the slots: -inf less -inf is no number.
    top, total = tl.full([ROWS, 1], -1.0e30, tl.float32), tl.zeros([ROWS, 1], tl.float32)
    mixed = tl.zeros([ROWS, PADDED], tl.float32)
    # Of a query that a tile has read wholly nothing is left. Otherwise each program reads as many whole blocks of
    # slots; of a short sequence some have none.
    low, high = begin // SLOTS * SLOTS, tl.where(num_left > 0, end, begin // SLOTS * SLOTS)
    share = tl.cdiv(high - low, tl.num_programs(2) * SLOTS) * SLOTS
    low += tl.program_id(2) * share
    high = tl.minimum(low + share, high)
    for first in range(low, high, SLOTS):
        place = first + tl.arange(0, SLOTS)
        is_read = (place >= begin) & (place < end)
        slot = tl.load(slots + row.to(tl.int64) * row_len + place, mask=is_read, other=0).to(tl.int64)
        block, lane = (slot // LANES * num_groups + group) * D * LANES, slot % LANES
        # Keys and values have one layout, the head size innermost: a thread copies 16 bytes at a time.
        stored = block[:, None] + lane[:, None] * D + d[None, :]
        wanted = is_read[:, None] & (d[None, :] < D)
        k = tl.load(keys + stored, mask=wanted, other=0.0)
        seen = is_read[None, :] & (place[None, :] < num_seen) & (place[None, :] >= first_seen)
        s = tl.where(seen, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1, keep_dims=True))
        weights, fade = tl.exp(s - higher), tl.exp(top - higher)
        v = tl.load(values + stored, mask=wanted, other=0.0)
        mixed = mixed * fade + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * fade + tl.sum(weights, 1, keep_dims=True)
        top = higher
    if not IS_PART:
        tl.store(output + at * D + d[None, :], (mixed / total).to(q.dtype), mask=inside)
    # What a tile has read wholly has no other part.
    elif num_left > 0:
        part = tl.program_id(2).to(tl.int64) * num_queries * num_groups * R
        tl.store(output + (part + at) * D + d[None, :], mixed / tl.maximum(total, 1e-30), mask=inside)
        tl.store(logsums + part + at, top + tl.log(total), mask=is_row)


@triton.jit(do_not_specialize=CHANGING)
def _merge(
    parts, logsums, output, lens, in_tiles, tile_splits, splits,
    PARTS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Add parts up, each times its share of the sum of all weights: first those of tiles, then a query's own."""
    num_heads = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    head = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    part, d = tl.arange(0, PARTS), tl.arange(0, PADDED)
    num_in_tile, num_seen = tl.load(in_tiles + tl.program_id(0)), tl.load(lens + tl.program_id(0))
    first = tl.where(num_in_tile > 0, 0, tile_splits)
    end = tl.where(num_in_tile < num_seen, tile_splits + splits, tile_splits)
    is_there = (part >= first) & (part < end)
    logsum = tl.load(logsums + part * num_heads + head, mask=is_there, other=float("-inf"))
    weights = tl.exp(logsum - tl.max(logsum, 0))
    at = (part[:, None] * num_heads + head) * D + d[None, :]
    mixed = tl.load(parts + at, mask=is_there[:, None] & (d[None, :] < D), other=0.0)
    mixed = tl.sum(mixed * weights[:, None], 0) / tl.sum(weights, 0)  # pyright: ignore[reportOperatorIssue]
    tl.store(output + head * D + d, mixed.to(output.dtype.element_ty), mask=d < D)

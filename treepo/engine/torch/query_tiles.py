"""Which queries of a forward read slots together: tokens of one prompt, and paths that share a prefix.

Both are known to the host, which compares block tables; it does not wait for the device.
Letters: N queries · R rows · C slots of a row · T tiles.
"""

import numpy as np

MAX_QUERIES = 16
"""Most queries of a tile: as many rows of a matrix product as it needs at least, and the usual width of a tree."""

GRAIN = 32
"""Shared slots are counted in so many: block tables are compared at every 32nd slot. A slot holds a token after a
certain prefix, so rows that have one slot in common share all before it."""

MERGE_COST = 32
"""Reads of slots that take about as long as merging a query's attention from two parts: both are written and read in
float32, as many bytes as 4 slots per query head and key head. An estimate, not measured."""

MIN_GAIN = 1 << 14
"""Fewest reads of slots that tiles must save a layer: two launches more take about as long as these. An estimate, not
measured."""


def query_tiles(slots: np.ndarray, rows: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tiles that save most reads, for queries i that see the first lens[i] of slots[rows[i]].

    slots int32 [R, C]; rows, lens int32 [N]. Returns tiles int32 [T, 4]: first query, number of queries, their row or
    that of the first one, and how many of its slots the tile reads. T is a power of two, or 0; tiles without queries
    fill it up, so that few sizes are launched. And int32 [N]: how many slots of each query are read in its tile.
    """
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(begins, append=len(rows))
    found, gain = _of_prompts(lens, begins[counts > 1], counts[counts > 1])
    common = _common(slots, rows, lens, begins[counts == 1])
    of_paths, gain_of_paths = _of_paths(common.tolist())
    found += of_paths
    in_tiles = np.zeros(len(rows), np.int32)
    if gain + gain_of_paths < MIN_GAIN:
        return np.zeros((0, 4), np.int32), in_tiles
    tiles = np.zeros((1 << (len(found) - 1).bit_length(), 4), np.int32)
    for tile, (first, count, num_slots) in zip(tiles, found, strict=False):
        tile[:] = first, count, rows[first], num_slots
        in_tiles[first : first + count] = np.minimum(lens[first : first + count], num_slots)
    return tiles, in_tiles


Tiles = list[tuple[int, int, int]]
"""(first query, number of queries, slots that are read) of each."""


def _of_prompts(lens: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> tuple[Tiles, int]:
    """Tiles of consecutive queries of one row, and what they save; begins, counts: where such queries are."""
    tiles, gain = [], 0
    for begin, end in zip(begins.tolist(), (begins + counts).tolist(), strict=True):
        for first in range(begin, end, MAX_QUERIES):
            seen = lens[first : min(first + MAX_QUERIES, end)]
            longest = int(seen.max())
            saved = int(seen.sum()) - longest - MERGE_COST * len(seen)
            if saved > 0:
                tiles.append((first, len(seen), longest))
                gain += saved
    return tiles, gain


def _common(slots: np.ndarray, rows: np.ndarray, lens: np.ndarray, single: np.ndarray) -> np.ndarray:
    """int64 [N - 1]: how many slots each query shares with the next one; 0 unless both are `single` in their rows."""
    common = np.zeros(max(len(rows) - 1, 0), np.int64)
    pairs = single[:-1][np.diff(single) == 1]
    limits = np.minimum(lens[pairs], lens[pairs + 1]) // GRAIN
    if len(pairs) and (most := int(limits.max())):
        places = np.arange(GRAIN - 1, most * GRAIN, GRAIN)
        same = slots[rows[pairs, None], places] == slots[rows[pairs + 1, None], places]
        same &= np.arange(most) < limits[:, None]
        common[pairs] = GRAIN * np.logical_and.accumulate(same, axis=1).sum(1)
    return common


def _of_paths(common: list[int]) -> tuple[Tiles, int]:
    """Tiles of consecutive queries that share slots, and what they save: the most that any way to cut them saves.

    best[i]: what the first i queries save; tile_of[i]: the tile with which they end, or how many queries have none.
    """
    best, ends_with = [0, 0], [(0, 0), (1, 0)]
    for end in range(2, len(common) + 2):
        gain, chosen, shared = best[-1], (1, 0), common[end - 2]
        for first in range(end - 2, max(end - MAX_QUERIES, 0) - 1, -1):
            shared = min(shared, common[first])
            if not shared:
                break
            count = end - first
            if (saved := best[first] + (count - 1) * shared - MERGE_COST * count) > gain:
                gain, chosen = saved, (count, shared)
        best.append(gain)
        ends_with.append(chosen)
    tiles, end = [], len(best) - 1
    while end > 0:
        count, shared = ends_with[end]
        end -= count
        if shared:
            tiles.append((end, count, shared))
    return tiles[::-1], best[-1]

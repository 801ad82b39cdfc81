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
    common = _common(slots, rows, lens, begins[counts == 1])
    of_prompts, of_paths = _of_prompts(lens, begins[counts > 1], counts[counts > 1]), _of_paths(common)
    found = np.concatenate([of_prompts[0], of_paths[0]])
    in_tiles = np.zeros(len(rows), np.int32)
    if of_prompts[1] + of_paths[1] < MIN_GAIN:
        return np.zeros((0, 4), np.int32), in_tiles
    first, count, num_slots = found.T
    tiles = np.zeros((1 << (len(found) - 1).bit_length(), 4), np.int32)
    tiles[: len(found)] = np.stack([first, count, rows[first], num_slots], axis=1)
    queries = _ranges(first, count)
    in_tiles[queries] = np.minimum(lens[queries], np.repeat(num_slots, count))
    return tiles, in_tiles


def _ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """All of begins[0], begins[0] + 1 ... begins[0] + counts[0] - 1, begins[1] ..."""
    return np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def _of_prompts(lens: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, int]:
    """Tiles int64 [T, 3] of consecutive queries of one row (first query, number of queries, slots that are read), and
    what they save; begins, counts: where such queries are."""
    num_tiles = -(-counts // MAX_QUERIES)
    within = _ranges(np.zeros_like(num_tiles), num_tiles) * MAX_QUERIES
    firsts = np.repeat(begins, num_tiles) + within
    sizes = np.minimum(np.repeat(counts, num_tiles) - within, MAX_QUERIES)
    if not len(firsts):
        return np.zeros((0, 3), np.int64), 0
    # One more number, since the last tile may end behind the last query.
    bounds, numbers = np.stack([firsts, firsts + sizes], axis=1).reshape(-1), np.append(lens, 0)
    longest = np.maximum.reduceat(numbers, bounds)[::2]
    saved = np.add.reduceat(numbers, bounds)[::2] - longest - MERGE_COST * sizes
    return np.stack([firsts, sizes, longest], axis=1)[saved > 0], int(saved[saved > 0].sum())


def _common(slots: np.ndarray, rows: np.ndarray, lens: np.ndarray, single: np.ndarray) -> np.ndarray:
    """int64 [N - 1]: how many slots each query shares with the next one; 0 unless both are `single` in their rows."""
    common = np.zeros(max(len(rows) - 1, 0), np.int64)
    pairs = single[:-1][np.diff(single) == 1]
    limits = np.minimum(lens[pairs], lens[pairs + 1]) // GRAIN
    sampled = slots[:, GRAIN - 1 :: GRAIN]
    if not sampled.shape[1]:
        return common
    begin_alike = (limits > 0) & (sampled[rows[pairs], 0] == sampled[rows[pairs + 1], 0])
    pairs, limits = pairs[begin_alike], limits[begin_alike]
    if len(pairs):
        same = np.zeros((len(pairs), limits.max() + 1), bool)
        sampled = sampled[:, : limits.max()]
        same[:, :-1] = sampled[rows[pairs]] == sampled[rows[pairs + 1]]
        common[pairs] = GRAIN * np.minimum(same.argmin(1), limits)
    return common


def _of_paths(common: np.ndarray) -> tuple[np.ndarray, int]:
    """Tiles, as `_of_prompts` returns them, of consecutive queries that share slots, and what they save."""
    tiles, gain = [], 0
    edges = np.flatnonzero(np.diff(common > 0, prepend=False, append=False))
    for begin, end in edges.reshape(-1, 2).tolist():
        cut, saved = _cut(common[begin:end].tolist())
        tiles += [(begin + first, count, num_slots) for first, count, num_slots in cut]
        gain += saved
    return np.array(tiles, np.int64).reshape(-1, 3), gain


def _cut(common: list[int]) -> tuple[list[tuple[int, int, int]], int]:
    """Tiles of one query more than these, and what they save: the most that any way to cut them saves.

    best[i]: what the first i queries save; ends_with[i]: queries and slots of the tile with which they end, 0 slots if
    the last one is in none.
    """
    best, ends_with = [0, 0], [(0, 0), (1, 0)]
    for end in range(2, len(common) + 2):
        gain, chosen, shared = best[-1], (1, 0), common[end - 2]
        for first in range(end - 2, max(end - MAX_QUERIES, 0) - 1, -1):
            shared = min(shared, common[first])
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
    return tiles, best[-1]

"""Which queries read slots together: no query reads what it does not see, and as little is read as can be."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.engine.torch import query_tiles as module
from treepo.engine.torch.query_tiles import GRAIN, MAX_QUERIES, MERGE_COST, MIN_GAIN, query_tiles


def forest(seed: int, num_trees: int, num_paths: int) -> tuple[np.ndarray, np.ndarray]:
    """slots int32 [R, C] of paths that part at any place, and lens [R]; beyond them slots are anything."""
    rng = np.random.default_rng(seed)
    slots = np.zeros((num_trees * num_paths, 400), np.int32)
    for row in range(len(slots)):
        slots[row] = row * 400 + np.arange(400)
        if row % num_paths:
            parting = rng.integers(0, 300)
            slots[row, :parting] = slots[rng.integers(row - row % num_paths, row), :parting]
    return slots, rng.integers(300, 400, len(slots))


@given(st.integers(0, 1 << 30), st.integers(1, 4), st.integers(1, 20), st.integers(0, 40))
def test_queries_of_a_tile_see_its_slots(seed: int, num_trees: int, num_paths: int, prompt_len: int) -> None:
    """Trees beside the tokens of a prompt. Tiles do not overlap, hold at most MAX_QUERIES, and save what they claim."""
    slots, lens = forest(seed, num_trees, num_paths)
    rows = np.concatenate([np.full(prompt_len, 0), np.arange(len(slots))])[prompt_len == 1 :]
    lens = np.concatenate([np.arange(100, 100 + prompt_len), lens])[prompt_len == 1 :]
    tiles, in_tiles = query_tiles(slots, rows, lens)
    assert len(tiles) == 0 or len(tiles).bit_count() == 1
    used = tiles[tiles[:, 1] > 0]
    assert all(first + count <= other for (first, count, *_), (other, *_) in pairwise(sorted(used.tolist())))
    covered = np.zeros(len(rows), bool)
    for first, count, row, num_slots in used.tolist():
        assert 2 <= count <= MAX_QUERIES and rows[first] == row
        covered[first : first + count] = True
        for query in range(first, first + count):
            seen = min(num_slots, int(lens[query]))
            assert in_tiles[query] == seen and (seen == num_slots or rows[query] == row)
            assert np.array_equal(slots[rows[query], :seen], slots[row, :seen])
    assert not in_tiles[~covered].any()
    saved = int(in_tiles.sum() - used[:, 3].sum()) - MERGE_COST * int(covered.sum())
    assert saved >= MIN_GAIN or len(tiles) == 0


@given(st.lists(st.sampled_from([0, 32, 64, 96, 320, 1600]), max_size=9))
def test_no_way_to_cut_paths_saves_more(common: list[int]) -> None:
    """Against all 2^n ways."""

    def saved(cuts: int) -> int:
        places = [0, *(i + 1 for i in range(len(common)) if cuts >> i & 1), len(common) + 1]
        gains = [(b - a - 1) * min(common[a : b - 1], default=0) - MERGE_COST * (b - a) for a, b in pairwise(places)]
        return sum(max(gain, 0) for gain in gains)

    tiles, gain = module._of_paths(np.array(common, np.int64))
    assert gain == max(map(saved, range(1 << len(common))))
    assert gain == sum((count - 1) * shared - MERGE_COST * count for _, count, shared in tiles.tolist())


@pytest.mark.parametrize("num_paths", [16, 64])
def test_a_shared_prefix_is_read_once_for_16_paths(num_paths: int) -> None:
    """Not once for each. All slots, on the other hand, are those of one that shares nothing."""
    slots = np.arange(num_paths * 3000, dtype=np.int32).reshape(num_paths, 3000)
    alone = query_tiles(slots, np.arange(num_paths), np.full(num_paths, 2500))
    slots[:, :2048] = slots[0, :2048]
    tiles, in_tiles = query_tiles(slots, np.arange(num_paths), np.full(num_paths, 2500))
    assert tiles[:, 3].sum() == 2048 * num_paths / MAX_QUERIES and (in_tiles == 2048).all()
    assert len(alone[0]) == 0 and not alone[1].any()


def test_prompts_are_read_once_for_16_of_their_tokens() -> None:
    """A token of a prompt of n read n / 2 slots on average, all by itself; and where little is shared, or paths are
    few, nothing is merged."""
    num_tokens = 1000
    slots = np.arange(2 * num_tokens, dtype=np.int32).reshape(2, num_tokens)
    rows, lens = np.repeat([0, 1], num_tokens), np.tile(np.arange(1, num_tokens + 1), 2)
    tiles, in_tiles = query_tiles(slots, rows, lens)
    num_read = tiles[:, 3].sum() + (lens - in_tiles).sum()
    assert num_read < 1.2 * lens.sum() / MAX_QUERIES
    slots[1, : 3 * GRAIN] = slots[0, : 3 * GRAIN]
    assert len(query_tiles(slots, np.arange(2), np.full(2, 900))[0]) == 0

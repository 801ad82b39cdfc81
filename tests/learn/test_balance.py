"""Trees that are moved between processes so that updates take equally long."""

import json
from itertools import product
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.processes import run_in
from treepo.distributed import DistContext
from treepo.learn.balance import balance, deal, imbalance

SHARES = {4: [[7, 7, 2], [1], [], [5, 5, 3, 1]], 3: [[1], [1], [1]]}
"""Sizes of the items of each process; those of the last need not move."""


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50)), max_size=7))
def test_no_load_is_much_larger_than_it_has_to_be(sizes):
    """Within Graham's bound of the best of all ways to deal them out."""
    loads = [sum(size for (_, size), owner in zip(sizes, deal(sizes, 3), strict=True) if owner == k) for k in range(3)]
    ways = product(range(3), repeat=len(sizes))
    best = min(max(sum(s for (_, s), to in zip(sizes, way, strict=True) if to == k) for k in range(3)) for way in ways)
    assert sum(loads) == sum(size for _, size in sizes)
    assert 9 * max(loads) <= 11 * best


def test_the_imbalance_counts_what_others_wait_for():
    assert imbalance([[10, 0], [5, 5]]) == 1.5
    assert imbalance([[3, 3, 3]]) == imbalance([[0, 0]]) == imbalance([]) == 1


def move(processes: DistContext, folder: Path) -> None:
    """Items are called by their first process and place there."""
    sizes = SHARES[processes.world_size][processes.rank]
    found = balance([f"{processes.rank}.{i}" for i in range(len(sizes))], sizes, processes)
    (folder / f"{processes.rank}.json").write_text(json.dumps([found.items, found.before, found.after]))


def check_moved(count: int, folder: Path) -> None:
    shares = SHARES[count]
    size_of = {f"{rank}.{i}": size for rank, own in enumerate(shares) for i, size in enumerate(own)}
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]
    assert sorted(name for items, _, _ in told for name in items) == sorted(size_of)
    for rank, (items, before, after) in enumerate(told):
        assert before == [sum(own) for own in shares]
        assert sum(size_of[name] for name in items) == after[rank]
        assert items == sorted(items)
        assert max(after) <= max(before)
        if max(after) == max(before):
            assert items == [f"{rank}.{i}" for i in range(len(shares[rank]))]
    assert count == 3 or max(told[0][2]) < max(told[0][1])


def test_four_processes_share_the_work(tmp_path):
    run_in(4, move, tmp_path)
    check_moved(4, tmp_path)


def test_what_is_even_stays(tmp_path):
    run_in(3, move, tmp_path)
    check_moved(3, tmp_path)

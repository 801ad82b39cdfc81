"""Dealing the trees of an update to processes anew, so that all take about as long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from treepo.distributed import DistContext

T = TypeVar("T")


@dataclass(frozen=True)
class Balanced(Generic[T]):
    """items: those of this process now. before, after: the sizes of the items of each process, added up."""

    items: list[T]
    before: list[int]
    after: list[int]


def balance(items: Sequence[T], sizes: Sequence[int], processes: DistContext) -> Balanced[T]:
    """Move items between processes, each of which has to call it, so that none has much more than the others.

    Nothing moves where that would not make the largest load smaller. Items stay in the order of the processes that had
    them.
    """
    every = processes.all_gather(list(sizes))
    before = [sum(own) for own in every]
    owners = deal([(rank, size) for rank, own in enumerate(every) for size in own], processes.world_size)
    after = [0] * processes.world_size
    for owner, size in zip(owners, (size for own in every for size in own), strict=True):
        after[owner] += size
    if max(after) >= max(before):
        return Balanced(list(items), before, before)
    start = sum(len(own) for own in every[: processes.rank])
    own = {start + i: item for i, item in enumerate(items)}
    # Packed trees are small: a few numbers for each token.
    moved = processes.all_gather({place: item for place, item in own.items() if owners[place] != processes.rank})
    found = own | {place: item for share in moved for place, item in share.items()}
    return Balanced([found[p] for p in sorted(found) if owners[p] == processes.rank], before, after)


def deal(sizes: Sequence[tuple[int, int]], count: int) -> list[int]:
    """(process that has it, size) of each item -> the process that it goes to.

    The largest are dealt first, each to the process with the least so far (the longest-processing-time rule: the
    largest load is at most 4/3 of the smallest possible one; Graham, 1969), or to its own among several.
    """
    owners, loads = [0] * len(sizes), [0] * count
    for place in sorted(range(len(sizes)), key=lambda i: -sizes[i][1]):
        home, size = sizes[place]
        least = min(loads)
        owners[place] = home if loads[home] == least else loads.index(least)
        loads[owners[place]] += size
    return owners


def imbalance(loads: Sequence[Sequence[int]]) -> float:
    """The largest load of each update over the mean one, of all updates together; 1 where none waits for another."""
    total = sum(sum(own) for own in loads)
    return sum(max(own) * len(own) for own in loads) / total if total else 1.0

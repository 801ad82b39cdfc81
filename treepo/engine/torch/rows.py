"""What each row of the engine holds, and which row a new request gets.

Rows 0..num_active-1 decode; the rows above keep the tokens of finished requests, so that a request which continues
one of them starts from its keys and values. Every array below has one entry per row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from treepo.engine.base import SampleRequest


@dataclass(frozen=True)
class Admission:
    """A request that enters: the row whose first `num_cached` tokens it shares (-1: none), and whether that row
    becomes its own or is copied."""

    request: SampleRequest
    source: int
    num_cached: int
    takes_row: bool


@dataclass
class Rows:
    """The host's side of the rows; `KeyValueCache` holds the device's.

    ids: int32 [R, C], the known tokens; logprobs: float32 [R, C] of those that were decoded here.
    num_known, num_cached: int64 [R], tokens in `ids` and tokens with keys and values (all known ones but the last,
        while a row decodes).
    last_used: int64 [R], the step in which a row's request finished, 0 while it runs, -1 if the row holds nothing.
    """

    max_rows: int
    ids: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    logprobs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    num_known: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    num_cached: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    last_used: np.ndarray = field(default_factory=lambda: np.full(0, -1, np.int64))
    requests: list[SampleRequest | None] = field(default_factory=list)
    num_active: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and capacity in tokens."""
        return self.ids.shape[0], self.ids.shape[1]

    def reserve(self, num_rows: int, capacity: int) -> None:
        """Make room for at least this many rows and tokens per row."""
        old_rows, old_capacity = self.shape
        rows, columns = max(num_rows, old_rows), max(capacity, old_capacity)
        if (rows, columns) == (old_rows, old_capacity):
            return
        more, wider = rows - old_rows, columns - old_capacity
        self.ids = np.pad(self.ids, ((0, more), (0, wider)))
        self.logprobs = np.pad(self.logprobs, ((0, more), (0, wider)))
        self.num_known = np.pad(self.num_known, (0, more))
        self.num_cached = np.pad(self.num_cached, (0, more))
        self.last_used = np.pad(self.last_used, (0, more), constant_values=-1)
        self.requests += [None] * more

    def forget(self) -> None:
        """Hold nothing any more, in the room there is."""
        self.num_cached[:] = 0
        self.last_used[:] = -1
        self.num_active = 0

    def longest_shared(self, prefix: np.ndarray) -> tuple[int, int]:
        """(row, number of its cached tokens that `prefix` begins with), the most there is; the last token of
        `prefix` is left out, since it has to be fed to the model anyway."""
        wanted = prefix[: min(len(prefix) - 1, self.shape[1])]
        if len(wanted) == 0 or self.shape[0] == 0:
            return -1, 0
        differs = self.ids[:, : len(wanted)] != wanted
        shared = np.where(differs.any(1), differs.argmax(1), len(wanted))
        shared = np.minimum(shared, self.num_cached)
        row = int(shared.argmax())
        return (row, int(shared[row])) if shared[row] > 0 else (-1, 0)

    def is_active(self, row: int) -> bool:
        return self.requests[row] is not None

    def arrange(self, admissions: Sequence[Admission]) -> tuple[list[int], list[int], list[int]]:
        """Make the running and the admitted requests rows 0..num_active-1, moving as few rows as possible.

        Returns (targets, sources, rows of the admitted requests): row targets[i] becomes what sources[i] was. Rows
        that hold finished requests move up or, the least recently used ones first, are given up.
        """
        taken = {a.source for a in admissions if a.takes_row}
        staying = [r for r, request in enumerate(self.requests) if request is not None or r in taken]
        holding = np.flatnonzero(self.last_used >= 0).tolist()
        kept = [r for r in holding if self.requests[r] is None and r not in taken]
        num_entering = sum(not a.takes_row for a in admissions)
        num_active = len(staying) + num_entering
        num_rows = self._grown(num_active + len(kept))

        place: dict[int, int] = {r: r for r in staying if r < num_active}
        free = iter([r for r in range(num_active) if r not in place])
        place.update((r, next(free)) for r in staying if r >= num_active)
        fresh = list(free)

        kept = sorted(kept, key=lambda r: -self.last_used[r])[: num_rows - num_active]
        kept_place = {r: r for r in kept if r >= num_active}
        room = iter([r for r in range(num_active, num_rows) if r not in kept_place])
        kept_place.update((r, next(room)) for r in kept if r < num_active)
        place.update(kept_place)

        rows = [place[a.source] if a.takes_row else fresh.pop(0) for a in admissions]
        copies = [(row, a.source) for row, a in zip(rows, admissions, strict=True) if not a.takes_row and a.source >= 0]
        moves = [(new, old) for old, new in place.items() if new != old] + copies
        targets, sources = [m[0] for m in moves], [m[1] for m in moves]
        self._move(targets, sources, emptied=set(range(num_rows)) - set(place.values()))
        self.num_active = num_active
        for row, admission in zip(rows, admissions, strict=True):
            self._enter(row, admission)
        return targets, sources, rows

    def _grown(self, wanted: int) -> int:
        """Rows after making room for `wanted` of them, as far as allowed; doubling, so that growing stays rare."""
        current = self.shape[0]
        if wanted > current:
            self.reserve(min(self.max_rows, max(wanted, 2 * current)), 0)
        return self.shape[0]

    def _move(self, targets: list[int], sources: list[int], emptied: set[int]) -> None:
        for array in (self.ids, self.logprobs, self.num_known, self.num_cached, self.last_used):
            array[targets] = array[sources]
        moved = [self.requests[s] for s in sources]
        for target, request in zip(targets, moved, strict=True):
            self.requests[target] = request
        for row in emptied - set(targets):
            self.last_used[row], self.num_cached[row], self.requests[row] = -1, 0, None

    def _enter(self, row: int, admission: Admission) -> None:
        prefix = admission.request.prefix_ids
        self.ids[row, : len(prefix)] = prefix
        self.num_known[row] = len(prefix)
        self.num_cached[row] = admission.num_cached
        self.last_used[row] = 0
        self.requests[row] = admission.request

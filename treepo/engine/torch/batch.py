"""The running requests, one row each, as arrays over all rows so that a step costs little whatever their number."""

from dataclasses import dataclass

import numpy as np

from treepo.engine.base import SampleRequest
from treepo.engine.torch.attention import Table
from treepo.engine.torch.kv_cache import BLOCK, Blocks, extents_of
from treepo.engine.torch.prefix_cache import Run


@dataclass(frozen=True, eq=False)
class Pending:
    """A request that waits, with what was decoded for it before its room was needed elsewhere."""

    request: SampleRequest
    token_ids: np.ndarray
    logprobs: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        """Prefix and what was decoded, int32."""
        return np.concatenate([self.request.prefix_ids, self.token_ids])


class Rows:
    """R rows of up to C tokens and E extents.

    ids, slots int32, logprobs float32 [R, C]: known tokens, the slots of those that have keys and values (all but the
    last), and the log-probabilities of those decoded here. starts, counts int32 [R, E], num_extents int32 [R]: the
    same slots as extents. num_known, ends int64 [R]: tokens, and how many there may be; prefix_lens int64 [R]: those
    that the row entered with, its request's prefix and what was decoded before it had to wait. next_slot int32 [R]:
    where the next token goes if it is not a block's first. seeds uint64, temperatures, top_p, min_p float64, top_k
    int64 [R]. requests, runs, own_blocks: the request, the run of its prefix, and the blocks held for what it decodes.
    """

    def __init__(self, num_rows: int) -> None:
        self.ids = np.zeros((num_rows, 0), np.int32)
        self.slots = np.zeros((num_rows, 0), np.int32)
        self.logprobs = np.zeros((num_rows, 0), np.float32)
        self.starts = np.zeros((num_rows, 0), np.int32)
        self.counts = np.zeros((num_rows, 0), np.int32)
        self.num_extents = np.zeros(num_rows, np.int32)
        self.num_known = np.zeros(num_rows, np.int64)
        self.prefix_lens = np.zeros(num_rows, np.int64)
        self.ends = np.zeros(num_rows, np.int64)
        self.next_slot = np.zeros(num_rows, np.int32)
        self.seeds = np.zeros(num_rows, np.uint64)
        self.temperatures = np.ones(num_rows)
        self.top_p = np.ones(num_rows)
        self.min_p = np.zeros(num_rows)
        self.top_k = np.zeros(num_rows, np.int64)
        self.groups = np.zeros(num_rows, np.int64)
        self.entered = np.zeros(num_rows, np.int64)
        self.requests: list[SampleRequest | None] = [None] * num_rows
        self.runs: list[Run | None] = [None] * num_rows
        self.own_blocks: list[list[int]] = [[] for _ in range(num_rows)]
        self.free = list(range(num_rows))[::-1]
        self.num_entered = 0
        self.order: np.ndarray | None = None

    @property
    def num_running(self) -> int:
        """Rows in use."""
        return len(self.requests) - len(self.free)

    def running(self) -> np.ndarray:
        """int64: rows in use, those of one group side by side, so that what they share is read from near memory."""
        if self.order is None:
            rows = np.array([r for r, request in enumerate(self.requests) if request is not None], np.int64)
            self.order = rows[np.lexsort((self.entered[rows], self.groups[rows]))]
        return self.order

    def enter(self, pending: Pending, run: Run, slots: np.ndarray) -> int:
        """Give a request a row; slots: of its whole prefix, whose keys and values are there or about to be."""
        request, ids = pending.request, pending.ids
        row = self.free.pop()
        self._reserve(len(request.prefix_ids) + request.max_new_tokens)
        starts, counts = extents_of(slots)
        self._reserve_extents(len(starts) + -(-request.max_new_tokens // BLOCK) + 1)
        self.ids[row, : len(ids)] = ids
        self.slots[row, : len(ids)] = slots
        self.logprobs[row, len(request.prefix_ids) : len(ids)] = pending.logprobs
        self.starts[row, : len(starts)], self.counts[row, : len(starts)] = starts, counts
        self.num_extents[row] = len(starts)
        self.prefix_lens[row] = len(ids)
        self.num_known[row], self.ends[row] = len(ids), len(request.prefix_ids) + request.max_new_tokens
        self.next_slot[row] = 0
        how = request.sampling
        self.seeds[row], self.temperatures[row] = request.seed, how.temperature
        self.top_k[row], self.top_p[row], self.min_p[row] = how.top_k, how.top_p, how.min_p
        self.groups[row] = request.group
        self.order = None
        self.requests[row], self.runs[row], self.own_blocks[row] = request, run, []
        self.num_entered += 1
        self.entered[row] = self.num_entered
        return row

    def leave(self, row: int) -> Pending:
        """Take a row back; returns the request with all that was decoded for it. Its blocks stay held."""
        request = self._request(row)
        new = slice(len(request.prefix_ids), int(self.num_known[row]))
        self.requests[row] = self.runs[row] = self.order = None
        self.free.append(row)
        return Pending(request, self.ids[row, new].copy(), self.logprobs[row, new].copy())

    def in_need(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows whose next token is the first of a new block."""
        return rows[self.next_slot[rows] % BLOCK == 0]

    def continue_in(self, row: int, slot: int) -> None:
        """The next token goes to `slot` and those after it behind that, to the end of its block."""
        self.own_blocks[row].append(slot // BLOCK)
        self.next_slot[row] = slot

    def place_last_tokens(self, rows: np.ndarray) -> np.ndarray:
        """Give the last known token of each row its next slot; returns the slots."""
        slots = self.next_slot[rows]
        self.slots[rows, self.num_known[rows] - 1] = slots
        last = self.num_extents[rows] - 1
        follows = (slots % BLOCK != 0) & (self.starts[rows, last] + self.counts[rows, last] == slots)
        self.counts[rows[follows], last[follows]] += 1
        others, place = rows[~follows], last[~follows] + 1
        self.starts[others, place], self.counts[others, place] = slots[~follows], 1
        self.num_extents[others] += 1
        self.next_slot[rows] += 1
        return slots

    def release(self, row: int, blocks: Blocks) -> None:
        """Hold what the row decoded no longer; call before its row is given away."""
        if self.own_blocks[row]:
            last = self.own_blocks[row][-1]
            used = self.next_slot[row] - last * BLOCK
            blocks.filled[last] = used
            blocks.release(np.array(self.own_blocks[row], np.int64))
        self.own_blocks[row] = []

    def _request(self, row: int) -> SampleRequest:
        request = self.requests[row]
        assert request is not None
        return request

    def _reserve(self, length: int) -> None:
        more = length - self.ids.shape[1]
        if more > 0:
            more = max(more, self.ids.shape[1] // 2)
            self.ids, self.slots, self.logprobs = (
                np.pad(x, ((0, 0), (0, more))) for x in (self.ids, self.slots, self.logprobs)
            )

    def _reserve_extents(self, count: int) -> None:
        more = count - self.starts.shape[1]
        if more > 0:
            more = max(more, self.starts.shape[1] // 2)
            self.starts, self.counts = (np.pad(x, ((0, 0), (0, more))) for x in (self.starts, self.counts))


LEAST_TOKENS = 16
"""Smaller forwards are filled up: for a handful of rows matrix products take other paths, which round differently."""


@dataclass(frozen=True, eq=False)
class Layout:
    """N tokens of a forward, and the R rows that draw from its M logits.

    ids, positions int64 [N]; table: what each token sees, its row up to itself. new int64: the tokens whose keys and
    values are stored, in new_slots int32. logits_at int64 [M]: tokens whose logits are wanted. drawing int64 [R]: rows
    that draw, draws_from int64 [R]: which of the logits.
    """

    ids: np.ndarray
    positions: np.ndarray
    table: Table
    new: np.ndarray
    new_slots: np.ndarray
    logits_at: np.ndarray
    drawing: np.ndarray
    draws_from: np.ndarray


class Batch:
    """Tokens side by side: prefix tokens of requests that enter, then the last token of each running row.

    Requests that enter with the same prefix draw from the same logits: it is computed once.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.num_tokens = 0
        self.logits_at: list[int] = []
        self.drawing_rows: list[int] = []
        self.draws_from: list[int] = []
        self.asked: dict[int, int] = {}

    def add_admitted(self, row: int, num_known: int, run: Run) -> None:
        """The tokens of a row's prefix that are not known, and the logits at its end."""
        self.drawing_rows.append(row)
        if num_known == self.rows.num_known[row] and id(run) in self.asked:
            self.draws_from.append(self.asked[id(run)])
            return
        end = int(self.rows.num_known[row])
        positions = np.arange(min(num_known, end - 1), end)
        self._add(np.full(len(positions), row), positions, positions >= num_known)
        self.asked[id(run)] = len(self.logits_at)
        self.draws_from.append(len(self.logits_at))
        self.logits_at.append(self.num_tokens - 1)

    def add_running(self, rows: np.ndarray) -> None:
        """The last token of each row, whose next slot it takes."""
        if len(rows):
            self.rows.place_last_tokens(rows)
            first = self.num_tokens
            self._add(rows, self.rows.num_known[rows] - 1, np.ones(len(rows), bool))
            self.draws_from.extend(range(len(self.logits_at), len(self.logits_at) + len(rows)))
            self.logits_at.extend(range(first, self.num_tokens))
            self.drawing_rows.extend(rows.tolist())

    def _add(self, rows: np.ndarray, positions: np.ndarray, is_new: np.ndarray) -> None:
        self.parts.append((rows, positions, is_new))
        self.num_tokens += len(rows)

    def laid_out(self) -> "Layout":
        """All that was added, filled up with a token whose results nobody looks at: so a row's bits do not depend on
        who else is there."""
        rest = LEAST_TOKENS - self.num_tokens
        if rest > 0:
            rows, positions, _ = self.parts[0]
            self._add(np.full(rest, rows[0]), np.full(rest, positions[0]), np.zeros(rest, bool))
        self.logits_at.extend([self.num_tokens - 1] * (LEAST_TOKENS - len(self.logits_at)))
        rows, positions, is_new = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        held, new = self.rows, np.flatnonzero(is_new)
        return Layout(
            ids=held.ids[rows, positions].astype(np.int64),
            positions=positions,
            table=Table(held.starts, held.counts, held.slots, rows, positions + 1),
            new=new,
            new_slots=held.slots[rows[new], positions[new]],
            logits_at=np.array(self.logits_at, np.int64),
            drawing=np.array(self.drawing_rows, np.int64),
            draws_from=np.array(self.draws_from, np.int64),
        )

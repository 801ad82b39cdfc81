"""Continuous batching: the running requests as rows of arrays, and the tokens of one forward.

Arrays over all rows keep the cost of a step low, however many requests run.
Letters: R rows · C tokens of a row · E spans of a row · N tokens of a forward · M logits.
"""

from dataclasses import dataclass

import numpy as np

from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.sampling import BatchSamplingParams
from treepo.engine.torch.attention import BlockTable, CachedAttention, GatherKernel
from treepo.engine.torch.kv_cache import BLOCK, BlockManager, KVCache, spans_of
from treepo.engine.torch.prefix_cache import RadixNode

MIN_TOKENS = 16
"""Smaller forwards are padded: for a handful of rows matrix products take other paths, which round differently."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """A request that does not run, with the tokens that were decoded before it was preempted."""

    request: SampleRequest
    token_ids: np.ndarray
    logprobs: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        """Prefix and decoded tokens, int32."""
        return np.concatenate([self.request.prefix_ids, self.token_ids])


class RunningBatch:
    """The running requests, a row each.

    ids, slots int32, logprobs float32 [R, C]: known tokens, the slots of those that have keys and values (all but the
    last), and the log-probabilities of those decoded here. starts, counts int32 [R, E], num_spans int32 [R]: the same
    slots as spans. num_known, ends int64 [R]: tokens, and how many there may be; prefix_lens int64 [R]: those that the
    row entered with. next_slot int32 [R]: where the next token goes if it is not the first of a block. entered int64
    [R]: which row entered when. nodes: the node of the prefix cache with which each row's prefix ends. own_blocks: the
    blocks that are allocated for what the row decodes.
    """

    def __init__(self, num_rows: int) -> None:
        self.ids = np.zeros((num_rows, 0), np.int32)
        self.slots = np.zeros((num_rows, 0), np.int32)
        self.logprobs = np.zeros((num_rows, 0), np.float32)
        self.starts = np.zeros((num_rows, 0), np.int32)
        self.counts = np.zeros((num_rows, 0), np.int32)
        self.num_spans = np.zeros(num_rows, np.int32)
        self.num_known = np.zeros(num_rows, np.int64)
        self.prefix_lens = np.zeros(num_rows, np.int64)
        self.ends = np.zeros(num_rows, np.int64)
        self.next_slot = np.zeros(num_rows, np.int32)
        self.seeds = np.zeros(num_rows, np.uint64)
        self.params = BatchSamplingParams.of([SamplingParams()] * num_rows)
        self.groups = np.zeros(num_rows, np.int64)
        self.entered = np.zeros(num_rows, np.int64)
        self.requests: list[SampleRequest | None] = [None] * num_rows
        self.nodes: list[RadixNode | None] = [None] * num_rows
        self.own_blocks: list[list[int]] = [[] for _ in range(num_rows)]
        self.free_rows = list(range(num_rows))[::-1]
        self.num_entered = 0
        self.order: np.ndarray | None = None

    @property
    def num_running(self) -> int:
        """Rows in use."""
        return len(self.requests) - len(self.free_rows)

    def running(self) -> np.ndarray:
        """Return int64: the rows in use, those of one group side by side, whose shared slots then stay in the cache of
        the processor."""
        if self.order is None:
            rows = np.array([r for r, request in enumerate(self.requests) if request is not None], np.int64)
            self.order = rows[np.lexsort((self.entered[rows], self.groups[rows]))]
        return self.order

    def add(self, sequence: Sequence, node: RadixNode, slots: np.ndarray) -> int:
        """Give a sequence a row; slots: of its whole prefix, whose keys and values are there or about to be."""
        request, ids = sequence.request, sequence.ids
        row = self.free_rows.pop()
        prompt_len, end = len(request.prefix_ids), len(request.prefix_ids) + request.max_new_tokens
        starts, counts = spans_of(slots)
        self.ids, self.slots, self.logprobs = (_widened(x, end) for x in (self.ids, self.slots, self.logprobs))
        num_spans = len(starts) + -(-request.max_new_tokens // BLOCK) + 1
        self.starts, self.counts = _widened(self.starts, num_spans), _widened(self.counts, num_spans)
        self.ids[row, : len(ids)] = ids
        self.slots[row, : len(ids)] = slots
        self.logprobs[row, prompt_len : len(ids)] = sequence.logprobs
        self.starts[row, : len(starts)], self.counts[row, : len(starts)] = starts, counts
        self.num_spans[row] = len(starts)
        self.prefix_lens[row] = self.num_known[row] = len(ids)
        self.ends[row] = end
        self.next_slot[row] = 0
        self.seeds[row] = request.seed
        self.params.put(row, request.sampling)
        self.groups[row] = request.group
        self.requests[row], self.nodes[row], self.own_blocks[row] = request, node, []
        self.num_entered += 1
        self.entered[row] = self.num_entered
        self.order = None
        return row

    def remove(self, row: int) -> Sequence:
        """Take a row back and return the sequence with all that was decoded for it. Its blocks stay allocated."""
        request = self.requests[row]
        assert request is not None
        decoded = slice(len(request.prefix_ids), int(self.num_known[row]))
        self.requests[row] = self.nodes[row] = self.order = None
        self.free_rows.append(row)
        return Sequence(request, self.ids[row, decoded].copy(), self.logprobs[row, decoded].copy())

    def known_ids(self, row: int) -> np.ndarray:
        """Return int32: prompt and output of a row so far."""
        return self.ids[row, : self.num_known[row]]

    def needs_block(self, rows: np.ndarray) -> np.ndarray:
        """Return those of the rows whose next token is the first of a new block."""
        return rows[self.next_slot[rows] % BLOCK == 0]

    def append_slot(self, row: int, slot: int) -> None:
        """Let the next token of a row go to a slot, and those after it to the rest of its block."""
        self.own_blocks[row].append(slot // BLOCK)
        self.next_slot[row] = slot

    def place_last_tokens(self, rows: np.ndarray) -> None:
        """Give the last known token of each row its next slot."""
        slots = self.next_slot[rows]
        self.slots[rows, self.num_known[rows] - 1] = slots
        last = self.num_spans[rows] - 1
        follows = (slots % BLOCK != 0) & (self.starts[rows, last] + self.counts[rows, last] == slots)
        self.counts[rows[follows], last[follows]] += 1
        others, place = rows[~follows], last[~follows] + 1
        self.starts[others, place], self.counts[others, place] = slots[~follows], 1
        self.num_spans[others] += 1
        self.next_slot[rows] += 1

    def append_tokens(self, rows: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """Append a sampled token to each row. Raises FloatingPointError if a log-probability is not finite."""
        if not np.isfinite(logprobs).all():
            raise FloatingPointError("the model's logits are not finite")
        at = rows, self.num_known[rows]
        self.ids[at], self.logprobs[at] = tokens, logprobs
        self.num_known[rows] += 1

    def free_blocks(self, row: int, blocks: BlockManager) -> None:
        """Free the blocks of what a row decoded; call before the row is taken back."""
        if self.own_blocks[row]:
            last = self.own_blocks[row][-1]
            blocks.num_filled[last] = self.next_slot[row] - last * BLOCK
            blocks.free(np.array(self.own_blocks[row], np.int64))
        self.own_blocks[row] = []


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    """[R, C] -> [R, at least width], by at least half of C so that it seldom happens."""
    more = width - array.shape[1]
    return np.pad(array, ((0, 0), (0, max(more, array.shape[1] // 2)))) if more > 0 else array


class BatchBuilder:
    """Collects the tokens of a forward: prefix tokens of admitted requests, then the last token of each running row.

    Requests that are admitted with the same prefix sample from the same logits: it is computed once. logits_at: the
    tokens whose logits are wanted. sampling_rows: rows that sample a token, logits_rows: from which of the logits.
    """

    def __init__(self, rows: RunningBatch) -> None:
        self.rows = rows
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.changed: list[np.ndarray] = []
        self.num_tokens = 0
        self.logits_at: list[int] = []
        self.sampling_rows: list[int] = []
        self.logits_rows: list[int] = []
        self.logits_of_node: dict[int, int] = {}

    def add_admitted(self, row: int, num_cached: int, node: RadixNode) -> None:
        """Add the tokens of a row's prefix that are not cached; its last one gives the logits."""
        self.sampling_rows.append(row)
        end = int(self.rows.num_known[row])
        self._note_changes(row, np.arange(end))
        if num_cached == end and id(node) in self.logits_of_node:
            self.logits_rows.append(self.logits_of_node[id(node)])
            return
        positions = np.arange(min(num_cached, end - 1), end)
        self._add(np.full(len(positions), row), positions, positions >= num_cached)
        self.logits_of_node[id(node)] = len(self.logits_at)
        self.logits_rows.append(len(self.logits_at))
        self.logits_at.append(self.num_tokens - 1)

    def add_running(self, rows: np.ndarray) -> None:
        """Add the last token of each row, which takes the row's next slot."""
        if len(rows):
            self.rows.place_last_tokens(rows)
            first, positions = self.num_tokens, self.rows.num_known[rows] - 1
            self._note_changes(rows, positions)
            self._add(rows, positions, np.ones(len(rows), bool))
            self.logits_rows.extend(range(len(self.logits_at), len(self.logits_at) + len(rows)))
            self.logits_at.extend(range(first, self.num_tokens))
            self.sampling_rows.extend(rows.tolist())

    def _note_changes(self, rows: np.ndarray | int, positions: np.ndarray) -> None:
        """Note tokens that got their slots after the forward before. Later rows may widen the table: its width is not
        known yet."""
        self.changed.append(np.stack(np.broadcast_arrays(rows, positions)).astype(np.int64))

    def _add(self, rows: np.ndarray, positions: np.ndarray, is_new: np.ndarray) -> None:
        self.parts.append((rows, positions, is_new))
        self.num_tokens += len(rows)

    def build(self, cache: KVCache, kernel: GatherKernel) -> tuple[np.ndarray, np.ndarray, CachedAttention]:
        """Return (ids, positions int64 [N], attention) of all that was added, padded with a token whose results are not
        used: so the bits of a row do not depend on how many others there are."""
        padding = MIN_TOKENS - self.num_tokens
        if padding > 0:
            rows, positions, _ = self.parts[0]
            self._add(np.full(padding, rows[0]), np.full(padding, positions[0]), np.zeros(padding, bool))
        self.logits_at.extend([self.num_tokens - 1] * (MIN_TOKENS - len(self.logits_at)))
        rows, positions, is_new = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        held, new = self.rows, np.flatnonzero(is_new)
        changed_rows, changed_positions = np.concatenate(self.changed, axis=1)
        table = BlockTable(
            starts=held.starts,
            counts=held.counts,
            slots=held.slots,
            rows=rows,
            lens=positions + 1,
            changed=changed_rows * held.slots.shape[1] + changed_positions,
        )
        attention = CachedAttention(cache, kernel, table, new, held.slots[rows[new], positions[new]])
        return held.ids[rows, positions].astype(np.int64), positions, attention

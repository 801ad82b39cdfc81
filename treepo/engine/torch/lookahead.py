"""Several tokens ahead for each running row: their slots are allocated before any of them is sampled.

Nothing forks within a segment, so where each token's keys and values go is known before the token is. What rows that
end early do not need is freed afterwards. Letters: R running rows · n steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from treepo.engine.sampling import uniforms
from treepo.engine.torch.batch import MIN_TOKENS, RunningBatch
from treepo.engine.torch.device_loop import LoopInputs
from treepo.engine.torch.kv_cache import BLOCK, BlockManager
from treepo.engine.torch.query_tiles import query_tiles


@dataclass(frozen=True, eq=False)
class Lookahead:
    """The next n steps of all running rows.

    rows int64 [R]; counts int64 [R]: how many tokens each may decode, at most n. slots int32 [R, n]: where each step
    stores the keys and values of the token that it computes; in `scratch_block`, which nothing reads, once a row is at
    its end. changed int64 [K]: places in the batch's flat slots that were set. room int64 [R]: slots that were left
    in each row's last block. new_blocks: those that were allocated for each row.
    """

    rows: np.ndarray
    counts: np.ndarray
    slots: np.ndarray
    changed: np.ndarray
    room: np.ndarray
    new_blocks: list[list[int]]
    scratch_block: int

    def inputs(self, batch: RunningBatch) -> LoopInputs:
        """Return what the device needs, for rows that are padded."""
        num_rows, num_steps = self.slots.shape
        size = padded_size(num_rows)
        # Rows that pad store where nothing reads, and see one slot.
        rows = np.concatenate([self.rows, np.full(size - num_rows, self.rows[0])])
        slots = np.full((num_steps, size), self.scratch_block * BLOCK, np.int32)
        slots[:, :num_rows] = self.slots.T
        known, lens = batch.num_known[rows], np.ones((num_steps, size), np.int32)
        steps = np.minimum(np.arange(num_steps)[:, None], self.counts - 1)
        lens[:, :num_rows] = known[:num_rows] + steps
        numbers = [uniforms(batch.seeds[rows], known + i) for i in range(num_steps)]
        params, ids = batch.params.of_rows(rows), batch.ids[rows, known - 1]
        # What paths share is shared in all steps.
        tiles = query_tiles(batch.slots, rows, lens[0])
        return LoopInputs(
            each_step=[[numbers[i], lens[i] - np.int64(1), lens[i], slots[i]] for i in range(num_steps)],
            all_steps=[ids.astype(np.int64), rows.astype(np.int32), *tiles, *params.arrays()],
            kinds=params.kinds,
            table=batch.slots,
            changed=self.changed,
            max_len=int(lens.max()),
        )

    def accept(
        self, batch: RunningBatch, blocks: BlockManager, tokens: np.ndarray, logprobs: np.ndarray, eos_ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Append what was sampled, [n, R or more], to the rows, each up to its end; free the blocks that none of them
        needs.

        Returns bool [R]: whether a row's segment is complete, and whether it ended with an end-of-sequence token.
        Raises FloatingPointError if a log-probability up to there is not finite.
        """
        active, ended = np.ones(len(self.rows), bool), np.zeros(len(self.rows), bool)
        num_placed = np.zeros(len(self.rows), np.int64)
        for step, is_eos in enumerate(np.isin(tokens[:, : len(self.rows)], eos_ids)):
            rows = self.rows[active]
            batch.next_slot[rows] = self.slots[active, step]
            batch.place_last_tokens(rows)
            batch.append_tokens(rows, tokens[step, : len(active)][active], logprobs[step, : len(active)][active])
            num_placed += active
            ended |= active & is_eos
            active &= ~is_eos & (step + 1 < self.counts)
            if not active.any():
                break
        num_used = -(-np.maximum(num_placed - self.room, 0) // BLOCK)
        unused = [self.scratch_block]
        for row, new, used in zip(self.rows.tolist(), self.new_blocks, num_used.tolist(), strict=True):
            batch.own_blocks[row] += new[:used]
            unused += new[used:]
        blocks.free(np.array(unused, np.int64))
        return ended | (batch.num_known[self.rows] == batch.ends[self.rows]), ended


def look_ahead(
    batch: RunningBatch, blocks: BlockManager, evict: Callable[[int], bool], num_steps: int
) -> Lookahead | None:
    """Allocate slots for up to so many tokens of each running row; None, and nothing changes, without enough blocks.

    evict: makes so many blocks free and returns True, or returns False.
    """
    rows = batch.running()
    counts = np.minimum(batch.ends[rows] - batch.num_known[rows], num_steps)
    begins = batch.next_slot[rows].astype(np.int64)
    room = -begins % BLOCK
    num_new = -(-np.maximum(counts - room, 0) // BLOCK)
    num_needed = int(num_new.sum()) + 1
    if blocks.num_free < num_needed and not evict(num_needed):
        return None
    # All of a block belongs to its row: no other sequence continues in it.
    new_blocks = [[blocks.allocate(is_full=True) for _ in range(count)] for count in num_new.tolist()]
    scratch_block = blocks.allocate(is_full=True)
    steps = np.arange(num_steps)
    blocks_of_rows = np.full((len(rows), -(-num_steps // BLOCK) + 1), scratch_block, np.int64)
    for row_blocks, new in zip(blocks_of_rows, new_blocks, strict=True):
        row_blocks[: len(new)] = new
    beyond = steps - room[:, None]
    block = np.take_along_axis(blocks_of_rows, np.maximum(beyond, 0) // BLOCK, 1)
    slots = np.where(beyond < 0, begins[:, None] + steps, block * BLOCK + beyond % BLOCK)
    slots = np.where(steps < counts[:, None], slots, scratch_block * BLOCK).astype(np.int32)
    at, step = np.nonzero(steps < counts[:, None])
    places = rows[at], batch.num_known[rows[at]] - 1 + step
    batch.slots[places] = slots[at, step]
    changed = places[0] * batch.slots.shape[1] + places[1]
    return Lookahead(rows, counts, slots, changed, room, new_blocks, scratch_block)


def padded_size(num_rows: int) -> int:
    """Return how many rows are decoded for so many: 16, 24, 32, 48, 64, 96 ... Each size has its own graph, and at most
    a third is padding."""
    size = max(MIN_TOKENS, 1 << (num_rows - 1).bit_length())
    return size * 3 // 4 if size > MIN_TOKENS and num_rows <= size * 3 // 4 else size

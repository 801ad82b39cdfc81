"""How many tokens' keys and values fit into free memory."""

import os

import numpy as np
import torch
from torch import Tensor, nn

SHARE = 0.5
"""Of the free memory, what the engine may take for keys and values by default."""

UNKNOWN_BYTES = 4 << 30
"""Assumed where the system does not tell how much memory is free."""


def affordable_tokens(model: nn.Module) -> int:
    """Tokens whose keys and values take at most half of the memory that is free where the model lives."""
    return max(1024, int(SHARE * free_bytes(next(model.parameters()).device)) // bytes_per_token(model))


def bytes_per_token(model: nn.Module) -> int:
    """Bytes of one token's keys and values; on the CPU they are kept in float32."""
    parameter = next(model.parameters())
    text = model.config.get_text_config()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    # Recurrent layers have none; then a state as large as a token's hidden state is assumed.
    query_heads = getattr(text, "num_attention_heads", 1)
    heads = getattr(text, "num_key_value_heads", None) or query_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // query_heads
    itemsize = 4 if parameter.device.type == "cpu" else parameter.element_size()
    return 2 * text.num_hidden_layers * heads * size * itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that nothing uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN_BYTES


BLOCK = 8
"""Slots per block: what one vector instruction reads, and few enough that little of a last block is wasted."""


class Blocks:
    """Which blocks are in use, by how many holders, and how far each is filled.

    max_blocks: the most there may be. holders int32, filled int8: per block. A block that nobody holds is free.
    """

    def __init__(self, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self.holders = np.zeros(0, np.int32)
        self.filled = np.zeros(0, np.int8)
        self.free: list[int] = []
        self.num_made = 0
        self.peak = 0

    @property
    def num_used(self) -> int:
        """Blocks that somebody holds."""
        return self.num_made - len(self.free)

    @property
    def num_left(self) -> int:
        """Blocks that could still be taken."""
        return self.max_blocks - self.num_used

    def take(self) -> int:
        """An empty block, held once."""
        assert self.num_left > 0, "look at num_left first"
        if self.free:
            block = self.free.pop()
        else:
            block = self.num_made
            self.num_made += 1
            if block == len(self.holders):
                room = max(64, len(self.holders))
                self.holders = np.pad(self.holders, (0, room))
                self.filled = np.pad(self.filled, (0, room))
        self.holders[block] = 1
        self.filled[block] = 0
        self.peak = max(self.peak, self.num_used)
        return block

    def hold(self, blocks: np.ndarray) -> None:
        """One more holder for each of these different blocks."""
        self.holders[blocks] += 1

    def release(self, blocks: np.ndarray) -> None:
        """One holder less for each of these different blocks."""
        self.holders[blocks] -= 1
        assert (self.holders[blocks] >= 0).all(), "a block was released twice"
        self.free.extend(blocks[self.holders[blocks] == 0].tolist())

    def num_needed(self, after: int, count: int) -> int:
        """Blocks to take for `count` slots that continue slot `after` (-1: nothing)."""
        return -(-max(count - self.room_behind(after), 0) // BLOCK)

    def room_behind(self, slot: int) -> int:
        """Slots behind this one in its block, if nobody has taken them."""
        return BLOCK - 1 - slot % BLOCK if slot >= 0 and self.filled[slot // BLOCK] == slot % BLOCK + 1 else 0

    def append(self, after: int, count: int) -> np.ndarray:
        """int32 [count]: slots that continue slot `after`; the blocks they lie in are held once more."""
        inside = min(self.room_behind(after), count)
        if inside:
            self.hold(np.array([after // BLOCK]))
        taken = [self.take() for _ in range(-(-(count - inside) // BLOCK))]
        slots = np.concatenate(
            [
                after + 1 + np.arange(inside),
                (np.array(taken, np.int64)[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[: count - inside],
            ]
        )
        # Of each block in ascending order, so that the last one stays.
        self.filled[slots // BLOCK] = slots % BLOCK + 1
        return slots.astype(np.int32)


def blocks_of(slots: np.ndarray) -> np.ndarray:
    """int64: the different blocks that slots lie in."""
    return np.unique(slots // BLOCK).astype(np.int64)


def extents_of(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first slots, numbers of slots), int32: consecutive slots of one block make one extent."""
    if len(slots) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    begins = np.concatenate([[True], (np.diff(slots) != 1) | (slots[1:] % BLOCK == 0)])
    at = np.flatnonzero(begins)
    return slots[at].astype(np.int32), np.diff(np.append(at, len(slots))).astype(np.int32)


class KVCache:
    """Per layer, keys [B, G, D, 8] and values [B, G, 8, D], made on first use in the shape of the model's own.

    max_blocks: most there may be. dtype: what they are kept in; the model's own type if None.
    """

    def __init__(self, max_blocks: int, dtype: torch.dtype | None) -> None:
        self.max_blocks = max_blocks
        self.dtype = dtype
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.num_blocks = 0

    def reserve(self, num_blocks: int) -> None:
        """Make room for at least this many blocks, doubling within what may be; what is stored stays."""
        assert num_blocks <= self.max_blocks
        if num_blocks > self.num_blocks:
            self.num_blocks = min(self.max_blocks, max(num_blocks, 2 * self.num_blocks, 256))
            for index, (keys, values) in list(self.layers.items()):
                self.layers[index] = self._enlarged(keys), self._enlarged(values)

    def clear(self) -> None:
        """Let go of everything; nothing may be stored."""
        self.layers = {}
        self.num_blocks = 0

    def _enlarged(self, old: Tensor) -> Tensor:
        # Zeros, since what no slot holds is multiplied by a weight of 0, and 0 times infinity is not 0.
        new = old.new_zeros(self.num_blocks, *old.shape[1:])
        new[: len(old)] = old
        return new

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer; key, value: [N, G, D] of that layer."""
        if index not in self.layers:
            shapes = (
                (self.num_blocks, key.shape[1], key.shape[2], BLOCK),
                (self.num_blocks, value.shape[1], BLOCK, value.shape[2]),
            )
            self.layers[index] = key.new_zeros(shapes[0]), value.new_zeros(shapes[1])
        return self.layers[index]

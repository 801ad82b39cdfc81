"""The KV cache: how many tokens fit into memory, blocks of slots for them, and the tensors of keys and values."""

import os

import numpy as np
import torch
from torch import Tensor, nn

BLOCK = 8
"""Slots per block: what one vector instruction reads, and few enough that little of a last block is wasted."""

FREE_MEMORY_SHARE = 0.5
"""Share of the free memory that the cache may take by default."""

UNKNOWN_BYTES = 4 << 30
"""Assumed where the system does not say how much memory is free."""


def affordable_tokens(model: nn.Module, dtype: torch.dtype, reserved_bytes: int = 0) -> int:
    """Return how many tokens' keys and values, kept in a type, take half of the free memory of the model's device,
    without what is reserved."""
    free = free_bytes(next(model.parameters()).device) - reserved_bytes
    return max(1024, int(FREE_MEMORY_SHARE * free) // bytes_per_token(model, dtype))


def bytes_per_token(model: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of one token's keys and values, kept in a type."""
    text = model.config.get_text_config()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    # Recurrent layers have none; then a state as large as a token's hidden state is assumed.
    query_heads = getattr(text, "num_attention_heads", 1)
    heads = getattr(text, "num_key_value_heads", None) or query_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // query_heads
    return 2 * text.num_hidden_layers * heads * size * dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Return the bytes of memory that nothing uses, those that PyTorch holds for later tensors included."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN_BYTES


class BlockManager:
    """Allocates blocks of slots and counts the references to each.

    max_blocks: most blocks there may be. ref_counts int32, num_filled int8: per block. A block without references is
    free.
    """

    def __init__(self, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self.ref_counts = np.zeros(0, np.int32)
        self.num_filled = np.zeros(0, np.int8)
        self.free_blocks: list[int] = []
        self.num_created = 0
        self.peak_used = 0

    @property
    def num_used(self) -> int:
        """Blocks with references."""
        return self.num_created - len(self.free_blocks)

    @property
    def num_free(self) -> int:
        """Blocks that can still be allocated."""
        return self.max_blocks - self.num_used

    def allocate(self, *, is_full: bool = False) -> int:
        """Return a block with one reference: empty, or one that counts as full, so that no other sequence continues in
        it."""
        assert self.num_free > 0, "look at num_free first"
        if self.free_blocks:
            block = self.free_blocks.pop()
        else:
            block = self.num_created
            self.num_created += 1
            if block == len(self.ref_counts):
                more = max(64, len(self.ref_counts))
                self.ref_counts = np.pad(self.ref_counts, (0, more))
                self.num_filled = np.pad(self.num_filled, (0, more))
        self.ref_counts[block] = 1
        self.num_filled[block] = BLOCK if is_full else 0
        self.peak_used = max(self.peak_used, self.num_used)
        return block

    def incref(self, blocks: np.ndarray) -> None:
        """Add a reference to each of these different blocks."""
        self.ref_counts[blocks] += 1

    def free(self, blocks: np.ndarray) -> None:
        """Remove a reference from each of these different blocks."""
        self.ref_counts[blocks] -= 1
        assert (self.ref_counts[blocks] >= 0).all(), "a block was freed twice"
        self.free_blocks.extend(blocks[self.ref_counts[blocks] == 0].tolist())

    def num_needed(self, after: int, count: int) -> int:
        """Return how many blocks to allocate for `count` slots that continue slot `after` (-1: nothing)."""
        return -(-max(count - self.num_open(after), 0) // BLOCK)

    def num_open(self, slot: int) -> int:
        """Return how many slots follow this one in its block, 0 if somebody has taken the next one."""
        return BLOCK - 1 - slot % BLOCK if slot >= 0 and self.num_filled[slot // BLOCK] == slot % BLOCK + 1 else 0

    def append_slots(self, after: int, count: int) -> np.ndarray:
        """Return int32 [count]: slots that continue slot `after`, with a reference to each block that they lie in."""
        inside = min(self.num_open(after), count)
        if inside:
            self.incref(np.array([after // BLOCK]))
        new = [self.allocate() for _ in range(-(-(count - inside) // BLOCK))]
        new_slots = (np.array(new, np.int64)[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[: count - inside]
        slots = np.concatenate([after + 1 + np.arange(inside), new_slots])
        # Slots of a block come in ascending order: of the values that are assigned to a block the last one stays.
        self.num_filled[slots // BLOCK] = slots % BLOCK + 1
        return slots.astype(np.int32)


def blocks_of(slots: np.ndarray) -> np.ndarray:
    """Return int64: the different blocks that slots lie in."""
    return np.unique(slots // BLOCK).astype(np.int64)


def spans_of(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (first slots, numbers of slots), int32: consecutive slots of one block make one span."""
    if len(slots) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    begins = (slots[1:] != slots[:-1] + 1) | (slots[1:] % BLOCK == 0)
    at = np.concatenate([[0], np.flatnonzero(begins) + 1, [len(slots)]])
    return slots[at[:-1]].astype(np.int32), (at[1:] - at[:-1]).astype(np.int32)


class KVCache:
    """Keys and values [B, G, 8, D] of each layer, made on first use in the shape of the model's own; keys [B, G, D, 8]
    for kernels that work on the keys of a whole block at a time.

    max_blocks: most blocks there may be. dtype: type that they are kept in.
    """

    def __init__(self, max_blocks: int, dtype: torch.dtype) -> None:
        self.max_blocks = max_blocks
        self.dtype = dtype
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.num_blocks = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for layer in self.layers.values() for tensor in layer)

    def reserve(self, num_blocks: int) -> None:
        """Hold at least this many blocks, doubling up to the most there may be; what is stored stays."""
        assert num_blocks <= self.max_blocks
        if num_blocks > self.num_blocks:
            self.num_blocks = min(self.max_blocks, max(num_blocks, 2 * self.num_blocks, 256))
            for index, (keys, values) in list(self.layers.items()):
                self.layers[index] = self._enlarged(keys), self._enlarged(values)

    def clear(self) -> None:
        """Free all memory; nothing may be stored."""
        self.layers = {}
        self.num_blocks = 0

    def _enlarged(self, old: Tensor) -> Tensor:
        # Zeros, since what no slot holds is multiplied by a weight of 0, and 0 times infinity is not 0.
        new = old.new_zeros(self.num_blocks, *old.shape[1:])
        new[: len(old)] = old
        return new

    def layer(self, index: int, key: Tensor, value: Tensor, *, keys_transposed: bool = False) -> tuple[Tensor, Tensor]:
        """Return keys and values of a layer; key, value: [N, G, D] of that layer."""
        if index not in self.layers:
            keys, values = (x.new_zeros(self.num_blocks, x.shape[1], BLOCK, x.shape[2]) for x in (key, value))
            self.layers[index] = keys.mT.contiguous() if keys_transposed else keys, values
        return self.layers[index]

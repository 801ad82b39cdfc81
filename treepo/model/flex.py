"""Attention over packed trees on CUDA devices: FlexAttention with a block mask, which skips pairs that are not visible.

Letters: N tokens · H query heads · G key-value heads · D head size.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

BLOCK = 128
"""Tokens of a block of the mask; the packed sequence is padded to a whole number of them."""

MIN_HEAD_SIZE = 16
"""Smallest head size that FlexAttention's kernels take; smaller heads are padded with zeros."""


class FlexTreeAttention:
    """TreeAttention through FlexAttention, compiled for all lengths.

    subtree_ends, positions: as for TreeAttention. What fills the last block sees itself alone and is cut off.
    """

    def __init__(self, subtree_ends: Tensor, positions: Tensor) -> None:
        self.num_tokens = len(positions)
        self.num_filling = -self.num_tokens % BLOCK
        filling = torch.arange(self.num_tokens, self.num_tokens + self.num_filling, device=positions.device)
        self.subtree_ends = torch.cat([subtree_ends, filling + 1])
        self.positions = torch.cat([positions, torch.zeros_like(filling)])
        self.masks: dict[int | None, BlockMask] = {}

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        if window not in self.masks:
            self.masks[window] = self.mask(window)
        # Under autocast rotary positions make queries and keys wider than values.
        q, k, v = (x.to(value.dtype) for x in (query * scale, key, value))
        wider = [max(0, MIN_HEAD_SIZE - x.shape[-1]) for x in (q, k, v)]
        q, k, v = (pad(x, (0, more, 0, self.num_filling)) for x, more in zip((q, k, v), wider, strict=True))
        attend = _compiled() if query.device.type == "cuda" else _attend
        output = attend(q, k, v, self.masks[window])
        return output[0, :, : self.num_tokens, : value.shape[-1]].transpose(0, 1).to(query.dtype)

    def mask(self, window: int | None) -> BlockMask:
        """Return the visible pairs, and per block of queries which blocks of keys they see in part and as a whole.

        Computed from the bounds of the blocks, so that no tensor has the size of all pairs.
        """
        ends, positions = self.subtree_ends, self.positions

        # A tensor, so that another window needs no other kernel.
        limit = None if window is None else torch.tensor(window, device=ends.device)

        def is_visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            above = (key <= query) & (query < ends[key])
            return above if limit is None else above & (positions[query] - positions[key] < limit)

        by_block, depths = ends.view(-1, BLOCK), positions.view(-1, BLOCK)
        starts = torch.arange(0, len(ends), BLOCK, device=ends.device)[:, None]
        earlier = starts > starts.T
        # Rows: blocks of queries; columns: blocks of keys.
        seen = earlier & (by_block.amax(1) > starts)
        whole = earlier & (by_block.amin(1) >= starts + BLOCK)
        if window is not None:
            seen &= depths.amin(1)[:, None] - depths.amax(1) < window
            whole &= depths.amax(1)[:, None] - depths.amin(1) < window
        part = (seen & ~whole) | (starts == starts.T)
        return BlockMask.from_kv_blocks(
            *_listed(part),
            *_listed(whole & seen),
            BLOCK_SIZE=BLOCK,
            mask_mod=is_visible,
            seq_lengths=(len(ends), len(ends)),
        )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(how many, which first) of each row, int32 [1, 1, R] and [1, 1, R, C], as BlockMask takes them."""
    order = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1).int()[None, None], order.int()[None, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask) -> Tensor:
    output = flex_attention(query, key, value, None, mask, 1.0, query.shape[1] != key.shape[1])
    assert isinstance(output, Tensor)
    return output


@cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor, BlockMask], Tensor]:
    return torch.compile(_attend, dynamic=True)

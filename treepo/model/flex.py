"""Attention over packed trees on CUDA devices: FlexAttention with a block mask, which skips what nobody sees.

Letters: N tokens · H query heads · G key-value heads · D head size.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad

BLOCK = 128
"""Tokens of a block of the mask; the packed sequence is filled up to a whole number of them."""


class FlexTreeAttention:
    """TreeAttention through FlexAttention, compiled once for all lengths.

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
        """See AttentionContext."""
        if window not in self.masks:
            self.masks[window] = self.mask(window)
        q, k, v = (pad(x, (0, 0, 0, self.num_filling)) for x in (query, key, value))
        attend = _compiled() if query.device.type == "cuda" else flex_attention
        grouped = query.shape[1] != key.shape[1]
        output = attend(q, k, v, None, self.masks[window], scale, grouped)
        assert isinstance(output, Tensor)
        return output[0, :, : self.num_tokens].transpose(0, 1)

    def mask(self, window: int | None) -> BlockMask:
        """Which blocks of queries see which blocks of keys, and where only some of them do."""
        ends, positions = self.subtree_ends, self.positions

        def is_visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            above = (key <= query) & (query < ends[key])
            return above if window is None else above & (positions[query] - positions[key] < window)

        length = len(positions)
        return create_block_mask(is_visible, None, None, length, length, device=positions.device.type, BLOCK_SIZE=BLOCK)


@cache
def _compiled() -> Callable[..., object]:
    return torch.compile(flex_attention, dynamic=True)

"""The attention function that transformers' decoders call, in rollouts and in training.

The caller passes `attention_context=...` to the model's forward; transformers passes it on to each layer. The context
decides what a query sees: the tokens above it in a packed tree, or the rows of the engine's cache.

Tokens of all sequences lie side by side in one sequence of batch 1, so nothing is padded.
Letters: N tokens · H query heads · G key-value heads · D head size.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from treepo.errors import UnsupportedAttentionError
from treepo.model.flex import FlexTreeAttention
from treepo.model.kernels.compile import load_kernels
from treepo.model.kernels.tree_attention import CpuTreeAttention

ATTENTION_NAME = "treepo"


class AttentionContext(Protocol):
    """Attention of the queries of one forward over what each of them sees.

    query: [1, H, N, D]; key, value: [1, G, N, D], both with their positions already applied. Returns [N, H, D].
    window: a key is visible if it lies fewer than this many positions back; None for no limit.
    """

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor: ...


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers passes it by position; ours says what is visible
    scaling: float | None = None,
    sliding_window: int | None = None,
    attention_context: AttentionContext | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention as transformers' AttentionInterface calls it: [1, H, N, D] -> ([1, N, H, D], None).

    Raises UnsupportedAttentionError for attention that a context cannot express: soft-capping, sinks, position biases.
    """
    if attention_context is None:
        message = "attention_context did not reach the attention, which every forward of this model needs"
        raise UnsupportedAttentionError(message)
    for name, extra in (("softcap", softcap), ("s_aux (sinks)", s_aux), ("position_bias", position_bias)):
        if extra is not None:
            message = f"{type(module).__name__} uses attention with {name}, which cannot be packed"
            raise UnsupportedAttentionError(message)
    layer = module.layer_idx
    assert isinstance(layer, int)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = attention_context(layer, query, key, value, scale, sliding_window)
    return output[None].contiguous(), None


def register_attention() -> None:
    """Make the function known to transformers under ATTENTION_NAME."""
    AttentionInterface.register(ATTENTION_NAME, attend)


class TreeAttention:
    """Each token of a packed batch of trees sees itself and the tokens above it in its own tree.

    offsets: where each tree starts in the packed sequence, and the end of the last: [num_trees + 1].
    subtree_ends: int64 [N], one past the last token at or below each token. In depth-first order the tokens at or
        below token j are exactly j..subtree_ends[j]-1, so i sees j if j <= i < subtree_ends[j].
    positions: int64 [N], depth of each token in its tree.
    """

    def __init__(self, offsets: list[int], subtree_ends: Tensor, positions: Tensor) -> None:
        self.offsets = offsets
        self.subtree_ends = subtree_ends
        self.positions = positions
        self.masks: dict[tuple[int | None, torch.dtype], list[Tensor]] = {}

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        group_size = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group_size, dim=1) if group_size > 1 else x for x in (key, value))
        masks = self._masks(window, query.dtype)
        outputs = []
        for start, end, mask in zip(self.offsets, self.offsets[1:], masks, strict=False):
            q, k, v = (x[:, :, start:end] for x in (query, key, value))
            outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale))
        return torch.cat(outputs, dim=2)[0].transpose(0, 1)

    def _masks(self, window: int | None, dtype: torch.dtype) -> list[Tensor]:
        """Per tree, [1, 1, n, n]: 0 where the key is visible, -inf elsewhere; the same for all layers of a kind."""
        if (window, dtype) not in self.masks:
            bounds = list(zip(self.offsets, self.offsets[1:], strict=False))
            self.masks[window, dtype] = [self._mask(s, e, window, dtype) for s, e in bounds]
        return self.masks[window, dtype]

    def _mask(self, start: int, end: int, window: int | None, dtype: torch.dtype) -> Tensor:
        index = torch.arange(start, end, device=self.subtree_ends.device)
        query, key = index[:, None], index[None, :]
        visible = (key <= query) & (query < self.subtree_ends[start:end])
        if window is not None:
            positions = self.positions[start:end]
            visible &= positions[:, None] - positions[None, :] < window
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, float("-inf"))[None, None]


def tree_attention(
    offsets: list[int], subtree_ends: np.ndarray, positions: np.ndarray, device: torch.device, dtype: torch.dtype
) -> AttentionContext:
    """Return the fastest attention over packed trees: a C kernel on the CPU, FlexAttention on CUDA, else a dense mask
    per tree (in float64, on other devices, without a compiler).

    offsets, subtree_ends, positions: see TreeAttention. dtype: of the weights.
    """
    if device.type == "cpu" and dtype != torch.float64 and (kernels := load_kernels("tree_attention.c")):
        return CpuTreeAttention(kernels, offsets, positions)
    ends, depths = (torch.from_numpy(x).to(device) for x in (subtree_ends, positions))
    if device.type == "cuda" and dtype != torch.float64:
        return FlexTreeAttention(ends, depths)
    return TreeAttention(offsets, ends, depths)

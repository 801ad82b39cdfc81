"""The attention function that transformers' decoders call, in rollouts and in training.

The caller passes `attention_context=...` to the model's forward; transformers passes it on to each layer. The context
decides what a query sees: the tokens above it in a packed tree, or the rows of the engine's cache.

Tokens of all sequences lie side by side in one sequence of batch 1, so nothing is padded.
Letters: N tokens · H query heads · G key-value heads · D head size.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from treepo.errors import UnsupportedAttentionError
from treepo.model.kernels.compile import load_kernels
from treepo.model.kernels.tree_attention import CpuTreeAttention

BLOCK = 128
"""Tokens of a block of the mask; the packed sequence is padded to a whole number of them."""

MAX_GRAPHS = 64
"""Most graphs of the attention that are compiled in a process."""

MIN_HEAD_SIZE = 16
"""Smallest head size that FlexAttention's kernels take; smaller heads are padded with zeros."""


class FlexTreeAttention:
    """TreeAttention through FlexAttention, compiled for all lengths.

    subtree_ends, positions: as for TreeAttention. What fills the last block sees itself alone and is cut off.
    """

    def __init__(self, subtree_ends: Tensor, positions: Tensor) -> None:
        self.num_tokens = len(positions)
        # At least two blocks: torch compiles sizes of 1 anew.
        self.num_filling = max(-self.num_tokens % BLOCK, 2 * BLOCK - self.num_tokens)
        filling = torch.arange(self.num_tokens, self.num_tokens + self.num_filling, device=positions.device)
        # The kernels' own indices are int32; wider ones would take more of their registers.
        self.subtree_ends = torch.cat([subtree_ends, filling + 1]).int()
        self.positions = torch.cat([positions, torch.zeros_like(filling)]).int()
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
        if query.device.type == "cuda":
            options = kernel_options(
                max(q.shape[-1], v.shape[-1]), q.dtype, torch.cuda.get_device_capability(query.device)
            )
            output = _compiled()(q, k, v, self.masks[window], options)
        else:
            output = _attend(q, k, v, self.masks[window], {})
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


def kernel_options(head_size: int, dtype: torch.dtype, capability: tuple[int, int]) -> dict[str, int | str]:
    """What FlexAttention's kernels are compiled with, where Inductor's choice does not fit a GPU or spills registers.

    Inductor's blocks for float32 and for heads larger than 128 need more shared memory than an A100, L4 or RTX 4090
    has, or spill thousands of bytes of registers (`benchmarks/flex_kernels.py` shows it without a GPU).

    capability: the GPU's compute capability.
    """
    if head_size > 256:
        return {}
    if dtype == torch.float32:
        # Three products of tensor cores are about as exact as one in float32, whose operands would fill the registers.
        options: dict[str, int | str] = {"FLOAT32_PRECISION": "'tf32x3'"}
        if head_size <= 64:
            return options | _blocks((64, 32), 2, 4, 32, 4)
        if head_size <= 128:
            return options | _blocks((32, 32), 2, 4, 16, 4)
        return options | _blocks((16, 16), 1, 4, 16, 8)
    # Hopper and data-center Blackwell have 227 KiB, an A100 163, others 99.
    is_large = (9, 0) <= capability < (12, 0)
    return _blocks((32, 32), 2, 4, 32, 4) if head_size > 128 and not is_large else {}


def _blocks(
    forward: tuple[int, int], stages: int, warps: int, backward: int, backward_warps: int
) -> dict[str, int | str]:
    """forward: queries and keys of a block; backward: of both."""
    options: dict[str, int | str] = {"fwd_BLOCK_M": forward[0], "fwd_BLOCK_N": forward[1]}
    options |= {"fwd_num_stages": stages, "fwd_num_warps": warps}
    options |= {f"bwd_BLOCK_{side}": backward for side in ("M1", "N1", "M2", "N2")}
    return options | {"bwd_num_stages": 1, "bwd_num_warps": backward_warps}


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, options: Any) -> Tensor:
    # Tells the compiler that no block is cut short: bounds are not checked, and fewer registers are spilled.
    torch._check(query.shape[2] % BLOCK == 0)
    enable_gqa = query.shape[1] != key.shape[1]
    output = flex_attention(query, key, value, None, mask, 1.0, enable_gqa, kernel_options=options)
    assert isinstance(output, Tensor)
    return output


@cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor, BlockMask, Any], Tensor]:
    """Compile for all lengths. fullgraph: past Dynamo's limit of recompilations it raises; otherwise it would run the
    dense attention, of the size of all pairs, without a word. Its 8 are soon reached: a model may have four, with and
    without gradients and windows, and each shape of heads and each type has its own."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    return torch.compile(_attend, dynamic=True, fullgraph=True)


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
    attention_mask: "Tensor | partial[Tensor | None] | None",
    scaling: float | None = None,
    sliding_window: int | None = None,
    attention_context: AttentionContext | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' AttentionInterface calls it: [1, H, N, D] -> ([1, N, H, D], None).

    Without a context it is that of transformers, for whoever calls the model as any other: model.generate, say.
    Raises UnsupportedAttentionError for attention that a context cannot express: soft-capping, sinks, position biases.
    """
    if attention_context is None:
        mask = attention_mask() if isinstance(attention_mask, partial) else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **others)
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
    """Make the function known to transformers under ATTENTION_NAME, with masks that are made where one is needed: one
    of all pairs of packed tokens never is."""
    AttentionInterface.register(ATTENTION_NAME, attend)
    AttentionMaskInterface.register(ATTENTION_NAME, partial(partial, sdpa_mask))


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
        self.masks: dict[tuple[int, int, int | None, torch.dtype], Tensor] = {}

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        group_size = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group_size, dim=1) if group_size > 1 else x for x in (key, value))
        outputs = []
        for start, end in pairwise(self.offsets):
            q, k, v = (x[:, :, start:end] for x in (query, key, value))
            kind = start, end, window, query.dtype
            if kind not in self.masks:
                self.masks[kind] = self._mask(*kind)
            outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=self.masks[kind], scale=scale))
        return torch.cat(outputs, dim=2)[0].transpose(0, 1)

    def _mask(self, start: int, end: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """[1, 1, n, n] of a tree: 0 where the key is visible, -inf elsewhere; the same for all layers of a kind."""
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

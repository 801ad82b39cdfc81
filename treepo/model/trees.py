"""Which attention a packed batch of trees gets: the one rule."""

import numpy as np
import torch
from torch import Tensor

from treepo.model.attention import AttentionContext, TreeAttention
from treepo.model.flex import FlexTreeAttention
from treepo.model.tree_kernel import CpuTreeAttention, load_tree_kernel


def tree_attention(
    offsets: list[int], subtree_ends: np.ndarray, positions: np.ndarray, device: torch.device, dtype: torch.dtype
) -> AttentionContext:
    """Our kernel on the CPU, FlexAttention on CUDA; a dense mask per tree in float64, without a compiler, elsewhere.

    offsets, subtree_ends, positions: see TreeAttention. dtype: of the weights.
    """
    if device.type == "cpu" and dtype != torch.float64 and (library := load_tree_kernel()) is not None:
        return CpuTreeAttention(library, offsets, positions)
    ends, depths = (_on(device, x) for x in (subtree_ends, positions))
    if device.type == "cuda" and dtype != torch.float64:
        return FlexTreeAttention(ends, depths)
    return TreeAttention(offsets, ends, depths)


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device)

"""From the host to the device that an engine decodes on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes that each array begins at a multiple of, as the widest loads of kernels need it."""


def send(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return the arrays as tensors on a device, which the host may not change meanwhile.

    To GPUs all go in one copy from page-locked memory, for which the host does not wait: from other memory it waits
    for all that the GPU still has to do.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    bytes_of_all = torch.empty(packed_size(arrays), dtype=torch.uint8, pin_memory=device.type == "cuda")
    pack_into(bytes_of_all.numpy(), arrays)
    return unpacked(bytes_of_all.to(device, non_blocking=True), arrays)


def packed_size(arrays: Sequence[np.ndarray]) -> int:
    """Bytes that arrays take one after the other."""
    return sum(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)


def pack_into(target: np.ndarray, arrays: Sequence[np.ndarray]) -> None:
    """Copy arrays one after the other into uint8 [bytes]."""
    start = 0
    for array in arrays:
        target[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start += packed_size([array])


def unpacked(packed: Tensor, arrays: Sequence[np.ndarray]) -> list[Tensor]:
    """Return views of uint8 [bytes], with the types and shapes of the arrays that were packed there."""
    views, start = [], 0
    for array in arrays:
        part = packed[start : start + array.nbytes]
        views.append(part.view(torch.from_numpy(array[:0]).dtype).view(array.shape))
        start += packed_size([array])
    return views

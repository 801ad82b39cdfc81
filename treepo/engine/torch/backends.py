"""What the engine decodes with on a device: the attention, the forward, and the loop without the host."""

import logging
from typing import Any

import torch
from torch import nn

from treepo.engine.torch.attention import GatherKernel
from treepo.engine.torch.cpu import CpuKernel
from treepo.engine.torch.device_loop import DeviceLoop
from treepo.model.forward import (
    Forward,
    FusedForward,
    PlainForward,
    TorchOperations,
    has_length_dependent_rope,
    supports_fused,
)
from treepo.model.kernels.compile import load_kernels
from treepo.model.linear_maps import bfloat16_instructions, product_dtype

logger = logging.getLogger(__name__)


def make_kernel(device: torch.device) -> GatherKernel:
    """Return the fastest attention on a device: compiled C, Triton, or torch where neither can be had."""
    if device.type == "cpu":
        kernels = load_kernels("decode_attention.c")
        return CpuKernel(kernels) if kernels else GatherKernel()
    try:
        from treepo.engine.torch.triton import TritonKernel  # noqa: PLC0415 - Triton is there on GPUs only
    except ImportError:
        return GatherKernel()
    return TritonKernel()


def make_forward(model: nn.Module, kernel: GatherKernel, autocast: torch.dtype | None) -> Forward:
    """Return the fastest forward of a model, over its own weights: what is trained is what runs."""
    config: Any = model.config
    if not supports_fused(model) or has_length_dependent_rope(config):
        return PlainForward(model, autocast)
    dtype = product_dtype(model, autocast)
    is_known = not isinstance(kernel, CpuKernel) or dtype in (torch.float32, torch.bfloat16)
    operations = kernel if isinstance(kernel, TorchOperations) and is_known else TorchOperations()
    forward = FusedForward(model, operations, dtype)
    _log_bfloat16(autocast or next(model.parameters()).dtype, forward)
    return forward


def make_loop(forward: Forward, kernel: GatherKernel, device: torch.device) -> DeviceLoop | None:
    """Return the loop that decodes several steps without the host; None on the CPU, where there is nothing to wait for,
    and for a model's own forward, which may ask the device for numbers."""
    if device.type == "cpu" or not isinstance(forward, FusedForward):
        return None
    return DeviceLoop(forward, kernel, device)


def _log_bfloat16(wanted: torch.dtype, forward: FusedForward) -> None:
    """Say what the engine computes in where bfloat16 was asked for on a CPU, and why."""
    if wanted != torch.bfloat16 or forward.model.device.type != "cpu":
        return
    megabytes = forward.num_copied_bytes / 1e6
    copies = f", over copies of the weights of {megabytes:.0f} MB" if megabytes else ""
    name = bfloat16_instructions()
    if forward.dtype == torch.bfloat16:
        logger.info("decoding computes matrix products in bfloat16 (by %s)%s", name, copies)
    else:
        reason = "which this processor computes faster: it has neither AMX nor AMD's AVX512-BF16 nor ARM's BFMMLA"
        logger.info("decoding computes matrix products in float32, %s%s", reason, copies)

"""Linear maps as the engine computes them: in which type, over the model's own weights or copies, with adapters."""

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@cache
def bfloat16_instructions() -> str | None:
    """Return the name of the instructions by which the CPU computes products in bfloat16 faster than in float32.

    AVX512-BF16 alone does not decide: AMD's cores do twice as many multiplications per second by it as in float32,
    Intel's half as many; there AMX does.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "BFMMLA" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() and _is_amd() else None


def _is_amd() -> bool:
    described = platform.processor()
    with suppress(OSError):
        described += Path("/proc/cpuinfo").read_text()[:1000]
    return "AuthenticAMD" in described


def product_dtype(model: nn.Module, autocast: torch.dtype | None) -> torch.dtype:
    """Return the type that the engine computes matrix products in: the trainer's, or on a CPU where bfloat16 is slower
    than float32, float32, which is closer to what either of them rounds.

    autocast: the type of the trainer's, that of the weights if None.
    """
    weight = next(model.parameters())
    dtype = autocast or weight.dtype
    is_slow = weight.device.type == "cpu" and dtype == torch.bfloat16 and bfloat16_instructions() is None
    return torch.float32 if is_slow else dtype


def is_fusable(module: nn.Module) -> bool:
    """Whether `LinearMap` computes what this module does: a plain linear map, or one with plain low-rank adapters."""
    if type(module) is nn.Linear:
        return True
    layer: Any = module
    if type(module).__module__ != "peft.tuners.lora.layer" or type(module).__name__ != "Linear":
        return False
    has_variant = any(layer.use_dora.values()) or any(layer.lora_bias.values()) or any(layer.lora_variant.values())
    return not has_variant and type(layer.base_layer) is nn.Linear and list(layer.lora_A) == ["default"]


class LinearMap:
    """x [N, in] of a type -> [N, out] of that type.

    Over weights of another type it computes with a copy, into which adapters are merged: it has to be made again when
    weights change. Otherwise it holds the module's own parameters. module: `is_fusable`.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        base = getattr(module, "base_layer", module)
        self.adapter: tuple[Tensor, Tensor, float] | None = None
        if base is not module:
            self.adapter = module.lora_A.default.weight, module.lora_B.default.weight, module.scaling["default"]
        self.weight, self.bias = base.weight, base.bias
        if self.weight.dtype != dtype:
            self.weight, self.adapter = self._merged().to(dtype), None
            self.bias = None if base.bias is None else base.bias.to(dtype)

    def _merged(self) -> Tensor:
        if self.adapter is None:
            return self.weight.detach()
        down, up, scale = self.adapter
        return torch.addmm(self.weight.detach().to(up.dtype), up, down, alpha=scale)

    def __call__(self, x: Tensor) -> Tensor:
        output = linear(x, self.weight, self.bias)
        if self.adapter is None:
            return output
        down, up, scale = self.adapter
        return output.add_(linear(linear(x.to(down.dtype), down), up), alpha=scale)


def num_copied_bytes(maps: list[Any], dtype: torch.dtype) -> int:
    """Return the bytes of the copies that linear maps of a type take."""
    weights = [getattr(module, "base_layer", module).weight for module in maps]
    return sum(weight.numel() * dtype.itemsize for weight in weights if weight.dtype != dtype)

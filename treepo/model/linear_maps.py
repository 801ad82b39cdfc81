"""Linear maps as the engine computes them: in which type, over the model's own weights or copies, with adapters."""

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
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


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether a device computes products in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bfloat16_instructions() is not None


def product_dtype(model: nn.Module, autocast: torch.dtype | None) -> torch.dtype:
    """Return the type that the engine computes matrix products in: the trainer's, or on a CPU where bfloat16 is slower
    than float32, float32, which is closer to what either of them rounds.

    autocast: the type of the trainer's, that of the weights if None.
    """
    weight = next(model.parameters())
    dtype = autocast or weight.dtype
    is_slow = weight.device.type == "cpu" and dtype == torch.bfloat16 and not is_fast_in_bfloat16(weight.device)
    return torch.float32 if is_slow else dtype


def is_fusable(module: nn.Module) -> bool:
    """Whether `LinearMaps` computes what this module does: a plain linear map, or one with plain low-rank adapters."""
    if type(module) is nn.Linear:
        return True
    layer: Any = module
    if type(module).__module__ != "peft.tuners.lora.layer" or type(module).__name__ != "Linear":
        return False
    has_variant = any(layer.use_dora.values()) or any(layer.lora_bias.values()) or any(layer.lora_variant.values())
    return not has_variant and type(layer.base_layer) is nn.Linear and list(layer.lora_A) == ["default"]


class LinearMaps:
    """Linear maps of one input: x [N, in] of a type -> their outputs [N, out] of that type.

    Where weights have another type it computes with one copy of all of them, into which adapters are merged: it has to
    be made again when they change. Otherwise it holds the modules' own parameters. modules: `is_fusable`.
    """

    def __init__(self, modules: Sequence[Any], dtype: torch.dtype) -> None:
        self.own = [_OwnMap.of(module) for module in modules]
        self.copy: Callable[[Tensor], Tensor] | None = None
        self.sizes = [own.weight.shape[0] for own in self.own]
        if self.own[0].weight.dtype != dtype:
            bias = None
            if any(own.bias is not None for own in self.own):
                biases = [own.weight.new_zeros(len(own.weight)) if own.bias is None else own.bias for own in self.own]
                bias = torch.cat(biases).to(dtype)
            self.copy = _product(torch.cat([own.merged(dtype) for own in self.own]), bias)
            self.own = []

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """Outputs of one copy are views."""
        return [own(x) for own in self.own] if self.copy is None else self.copy(x).split(self.sizes, -1)


@dataclass(frozen=True, eq=False)
class _OwnMap:
    """A linear map over its own parameters. adapter: (down [r, in], up [out, r], scale)."""

    weight: Tensor
    bias: Tensor | None
    adapter: tuple[Tensor, Tensor, float] | None

    @classmethod
    def of(cls, module: Any) -> "_OwnMap":
        base = getattr(module, "base_layer", module)
        if base is module:
            return cls(base.weight, base.bias, None)
        adapter = module.lora_A["default"].weight, module.lora_B["default"].weight, module.scaling["default"]
        return cls(base.weight, base.bias, adapter)

    def merged(self, dtype: torch.dtype) -> Tensor:
        weight = self.weight.detach()
        if self.adapter is None:
            return weight.to(dtype)
        down, up, scale = self.adapter
        return torch.addmm(weight.to(up.dtype), up, down, alpha=scale).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        output = linear(x, self.weight, self.bias)
        if self.adapter is None:
            return output
        down, up, scale = self.adapter
        return output.add_(linear(linear(x.to(down.dtype), down), up), alpha=scale)


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """x -> x weight^T + bias; in bfloat16 on the CPU over weights in the layout of oneDNN, which else changes it in
    every call: at 16 rows that takes a quarter of the time. The result is the same, bit for bit."""
    is_packed = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
    if not is_packed:
        return lambda x: linear(x, weight, bias)
    ops = torch.ops.mkldnn
    packed = ops._reorder_linear_weight(weight)
    return lambda x: ops._linear_pointwise(x, packed, bias, "none", [], "")


def num_copied_bytes(modules: Sequence[Any], dtype: torch.dtype) -> int:
    """Return the bytes of the copies that linear maps of a type take."""
    weights = [getattr(module, "base_layer", module).weight for module in modules]
    return sum(weight.numel() * dtype.itemsize for weight in weights if weight.dtype != dtype)

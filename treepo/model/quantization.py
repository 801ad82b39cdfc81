"""Linear maps whose weights are held in 4 bits, by bitsandbytes: below adapters, never trained themselves."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from treepo.errors import SettingError


def four_bit_settings(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """How transformers quantises a model to 4 bits; raises SettingError if bitsandbytes or accelerate is missing.

    NF4 with quantised scales. Source: QLoRA, arXiv 2305.14314.
    """
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            message = f"4-bit weights need {package}, which is not installed (pip install 'treepo[bitsandbytes]')"
            raise SettingError("lora.load_in_4bit", message, True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def keep_differentiable(model: Any) -> None:
    """Keep bitsandbytes from laying the weights out anew for the CPU at the first forward in evaluation mode, in which
    our models always are: it has no gradients for that layout, and computes wrong ones."""
    for module in model.modules():
        if is_quantized(module):
            module.support_avx512bf16_for_cpu = False


def is_quantized(module: nn.Module) -> bool:
    """Return whether a module's own weight is held in 4 bits."""
    return hasattr(getattr(module, "weight", None), "quant_state")


def dense_weight(module: Any) -> Tensor:
    """Return the weight of a linear map as it is computed with."""
    weight = module.weight.detach()
    if not is_quantized(module):
        return weight
    from bitsandbytes.functional import dequantize_4bit  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    return dequantize_4bit(module.weight.data, module.weight.quant_state)


def dense_linear(module: Any) -> nn.Linear:
    """Return a plain linear map that computes what a quantised one does."""
    dense = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
    dense.weight = nn.Parameter(dense_weight(module), requires_grad=False)
    dense.bias = module.bias
    return dense


def forget_quantization(model: Any) -> None:
    """Let a model whose quantised maps were all replaced be an ordinary one, also in its configuration."""
    for name in ("quantization_method", "hf_quantizer", "is_loaded_in_4bit"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config

"""A model's weights, as they are loaded."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from treepo.errors import SettingError, UnsupportedAttentionError
from treepo.model.adapters import add_adapter
from treepo.model.attention import ATTENTION_NAME
from treepo.model.fsdp import Sharding
from treepo.model.lora import merge_adapter
from treepo.model.quantization import keep_differentiable
from treepo.model.settings import LoraSettings
from treepo.model.sharded_loading import load_sharded
from treepo.model.sources import ModelSource


def load_model(
    source: ModelSource,
    arguments: dict[str, Any],
    device: str,
    config: PreTrainedConfig,
    sharding: Sharding | None = None,
) -> Any:
    """Load a model onto a device, with its adapter, if it has one, added to its weights.

    arguments: of transformers' `from_pretrained`. sharding: see `load_policy`. Raises SettingError where weights are
    missing, UnsupportedAttentionError where our attention is asked for and cannot take the place of the model's own.
    """
    is_quantized = "quantization_config" in arguments
    if sharding is not None and not source.adapter and not is_quantized:
        divided = load_sharded(source.base, config, arguments, device, sharding)
        if divided is not None:
            _check_attention(divided, arguments)
            return divided
    if is_quantized:
        # Weights are quantised as they arrive there.
        arguments = arguments | {"device_map": {"": device}}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.base, use_safetensors=True, output_loading_info=True, **arguments
        )
    except KeyError as error:
        if error.args == (ATTENTION_NAME,):
            raise UnsupportedAttentionError("its attention cannot be exchanged") from error
        raise
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        # transformers would only warn, and go on with random weights in their place.
        raise SettingError("model.path", f"the weights lack {len(missing)} tensors, such as {missing[0]!r}")
    _check_attention(model, arguments)
    if source.adapter:
        add_adapter(model, LoraSettings(path=source.adapter), seed=0)
        merge_adapter(model).requires_grad_(True)
    if is_quantized:
        keep_differentiable(model)
        return model
    return nn.Module.to(model, torch.device(device))


def _check_attention(model: Any, arguments: dict[str, Any]) -> None:
    if arguments["attn_implementation"] == ATTENTION_NAME and not model._supports_attention_backend:
        kind = model.config.model_type
        raise UnsupportedAttentionError(f"{kind!r} has its own attention, which cannot be packed")

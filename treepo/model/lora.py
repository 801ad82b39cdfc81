"""What a model with low-rank adapters (LoRA) computes, with them and without, and the weights it amounts to."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treepo.errors import SettingError
from treepo.model.fsdp import plain_weights
from treepo.model.quantization import dense_linear, dense_weight, forget_quantization, is_quantized


def has_adapter(model: PreTrainedModel) -> bool:
    """Return whether adapters were added."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def without_wrapper(model: Any) -> PreTrainedModel:
    """The model in which a PeftModel has put its adapter, as `add_adapter` leaves it; other models as they are.

    Raises SettingError for other adapters than one of LoRA, named "default".
    """
    is_wrapper = hasattr(model, "get_base_model")
    if has_adapter(model) or not (is_wrapper or any(hasattr(module, "base_layer") for module in model.modules())):
        return model
    configs = getattr(model, "peft_config", {}) if is_wrapper else {}
    if [(name, str(c.peft_type.value), getattr(c, "use_dora", False)) for name, c in configs.items()] != [
        ("default", "LORA", False)
    ]:
        raise SettingError("model", "needs one adapter of LoRA, named default, in a PeftModel", type(model).__name__)
    base = model.get_base_model()
    base._hf_peft_config_loaded, base.peft_config = True, configs
    return base


@contextmanager
def without_adapter(model: PreTrainedModel) -> Iterator[None]:
    """Turn the model's adapter off while this lasts."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


@contextmanager
def with_dropout(model: nn.Module) -> Iterator[None]:
    """Let adapters drop some of their inputs (`lora.dropout`) while this lasts; the rest of the model never does."""
    dropouts = [
        dropout
        for module in model.modules()
        for dropout in getattr(module, "lora_dropout", {}).values()
        if isinstance(dropout, nn.Dropout)
    ]
    try:
        for dropout in dropouts:
            dropout.train()
        yield
    finally:
        for dropout in dropouts:
            dropout.eval()


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model with the adapters added to the weights of plain linear maps."""
    return merge_adapter(deepcopy(model))


def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Add a model's adapters to the weights of plain linear maps, in place, and put modules that were trained whole in
    the place of the original ones; returns the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - an extra
    from peft.utils import ModulesToSaveWrapper  # noqa: PLC0415 - an extra

    is_any_quantized = False
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            base = layer.get_base_layer()
            if is_quantized(base):
                # peft would round the sum to 4 bits again.
                delta, base = layer.get_delta_weight("default"), dense_linear(base)
                base.weight.data += delta
                is_any_quantized = True
            else:
                layer.merge()
            model.set_submodule(name, base)
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save["default"])
        elif is_quantized(module) and not name.endswith(".base_layer"):
            model.set_submodule(name, dense_linear(module))
            is_any_quantized = True
    if is_any_quantized:
        forget_quantization(model)
    del model.peft_config
    model._hf_peft_config_loaded = False
    return model


@torch.no_grad()
def merged_weights(model: nn.Module, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of the weights of `merged(model)`, or of such a part of it, one at a time and without a copy
    of the model. skip: beginnings of names that are left out."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - an extra

    modules: dict[str, Any] = dict(model.named_modules())
    adapted = {name: module for name, module in modules.items() if isinstance(module, BaseTunerLayer)}
    quantized = {name for name, module in modules.items() if is_quantized(module)}
    for name, tensor in plain_weights(model).items():
        if name.startswith(skip):
            continue
        place, _, last = name.rpartition(".")
        if ".weight." in name and name.partition(".weight.")[0] in quantized:
            continue  # a scale of 4-bit weights
        weight = dense_weight(modules[place]) if last == "weight" and place in quantized else tensor
        owner = place.removesuffix(".base_layer")
        if owner != place and owner in adapted:
            delta = modules[owner].get_delta_weight("default") if last == "weight" else None
            yield f"{owner}.{last}", weight if delta is None else weight + delta
        elif ".original_module." not in name and not any(name.startswith(f"{layer}.") for layer in adapted):
            yield name.replace(".modules_to_save.default.", "."), weight

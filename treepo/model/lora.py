"""Low-rank adapters (LoRA) through peft: the model keeps its class, its linear maps get an adapter each."""

from collections.abc import Iterator
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from treepo.errors import SettingError
from treepo.model.fsdp import plain_weights
from treepo.model.settings import LoraSettings
from treepo.utils.foreign_errors import first_line


def add_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int) -> None:
    """Freeze the model's weights and add adapters that change nothing yet, the same ones for the same seed.

    Raises SettingError if peft is missing or no linear map has one of the names.
    """
    if find_spec("peft") is None:
        raise SettingError("lora.rank", "adapters need peft, which is not installed (pip install 'treepo[lora]')")
    from peft import LoraConfig  # noqa: PLC0415 - an extra

    targets = list(settings.targets) or "all-linear"
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets)  # pyright: ignore[reportArgumentType] - alpha may be a fraction
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise SettingError("lora.targets", first_line(error)) from error
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and not isinstance(getattr(module.base_layer, "weight", None), torch.Tensor):
            raise SettingError("lora.targets", f"{name!r} is no linear map; name those that are to get an adapter")
    # Embeddings may be tied, and the engine reads their weights without calling them.
    for name, module in (("input", model.get_input_embeddings()), ("output", model.get_output_embeddings())):
        if hasattr(module, "base_layer"):
            raise SettingError("lora.targets", f"adapters on the {name} embeddings are not supported")
    model.eval()


def has_adapter(model: PreTrainedModel) -> bool:
    """Return whether adapters were added."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model with the adapters added to the weights of plain linear maps."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - an extra

    copy = deepcopy(model)
    for name, module in list(copy.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            copy.set_submodule(name, module.get_base_layer())
    del copy.peft_config
    copy._hf_peft_config_loaded = False
    return copy


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of the weights of `merged(model)`, one at a time and without a copy of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - an extra

    adapted = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, tensor in plain_weights(model).items():
        place, _, last = name.rpartition(".")
        owner = place.removesuffix(".base_layer")
        if owner != place and owner in adapted:
            layer: Any = adapted[owner]
            delta = layer.get_delta_weight("default") if last == "weight" else None
            yield f"{owner}.{last}", tensor if delta is None else tensor + delta
        elif not any(name.startswith(f"{layer}.") for layer in adapted):
            yield name, tensor


def exported_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of every weight as the checkpoint names it, with adapters merged.

    transformers may hold weights in another layout than the checkpoint (experts side by side in one tensor).
    """
    weights = dict(merged_weights(model)) if has_adapter(model) else plain_weights(model)
    yield from revert_weight_conversion(model, weights).items()

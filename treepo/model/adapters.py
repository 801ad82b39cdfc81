"""Adding low-rank adapters (LoRA) through peft: the model keeps its class, its linear maps get an adapter each."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treepo.errors import SettingError
from treepo.model.adapter_files import local_adapter, read_adapter
from treepo.model.lora import has_adapter
from treepo.model.settings import LoraSettings
from treepo.utils.foreign_errors import first_line


def add_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int) -> None:
    """Freeze the model's weights and add adapters: those of a folder, or new ones that change nothing yet, the same for
    the same seed. Modules that are to be trained whole get a copy that is trained.

    Raises SettingError if peft is missing, no linear map has one of the names, or a folder's adapter does not fit.
    """
    if find_spec("peft") is None:
        raise SettingError("lora.rank", "adapters need peft, which is not installed (pip install 'treepo[lora]')")
    if has_adapter(model):
        raise SettingError(
            "lora.path" if settings.path else "lora.rank", "the loaded model has its own adapter already"
        )
    if settings.path:
        arguments, tensors = read_adapter(Path(local_adapter(settings.path, "lora.path")), "lora.path")
        _add(model, arguments | {"lora_dropout": settings.dropout}, seed, "lora.path")
        _load(model, tensors, settings.path)
        return
    names = [name for name, _ in model.named_modules()]
    for target in settings.targets:
        # peft passes over a name that is not there if another one is.
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise SettingError("lora.targets", "no linear map of the model has this name", target)
    arguments = {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": list(settings.targets) or "all-linear",
        "modules_to_save": list(settings.modules_to_save) or None,
    }
    _add(model, arguments, seed, "lora.targets")


def _add(model: PreTrainedModel, arguments: dict[str, Any], seed: int, setting: str) -> None:
    """Add adapters; setting: the one that chose their places."""
    from peft import LoraConfig  # noqa: PLC0415 - an extra

    _check_saved_modules(model, arguments["modules_to_save"] or [])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model.add_adapter(LoraConfig(**arguments))
        except ValueError as error:
            raise SettingError(setting, first_line(error)) from error
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and not isinstance(getattr(module.base_layer, "weight", None), torch.Tensor):
            raise SettingError(setting, f"{name!r} is no linear map; name those that are to get an adapter")
    # Embeddings may be tied, and the engine reads their weights without calling them.
    for name, module in (("input", model.get_input_embeddings()), ("output", model.get_output_embeddings())):
        if hasattr(module, "base_layer"):
            raise SettingError(setting, f"adapters on the {name} embeddings are not supported")
    model.eval()


def _check_saved_modules(model: PreTrainedModel, names: list[str]) -> None:
    """Raise SettingError for a name that no module has, and for tied embeddings, which would be one no more."""
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    for wanted in names:
        found = [module for name, module in model.named_modules() if name.endswith(wanted)]
        if not found:
            raise SettingError("lora.modules_to_save", f"the model has no module {wanted!r}")
        if head is not None and head.weight is inputs.weight and any(m in (head, inputs) for m in found):
            message = f"{wanted!r} shares its weights with the other embeddings, and cannot be trained apart from them"
            raise SettingError("lora.modules_to_save", message)


@torch.no_grad()
def _load(model: PreTrainedModel, tensors: Mapping[str, Tensor], folder: str) -> None:
    """Fill adapters with the tensors of a folder, which have to be exactly theirs."""
    room = {_saved_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    if unlike := sorted(room.keys() ^ tensors.keys()):
        place = "has no" if unlike[0] in room else "has a"
        raise SettingError("lora.path", f"{folder!r} {place} {unlike[0]!r}; it is an adapter of another model or kind")
    for name, parameter in room.items():
        if parameter.shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)} in {folder!r}, {list(parameter.shape)} in the model"
            raise SettingError("lora.path", f"{name!r} is {shapes}")
        parameter.copy_(tensors[name])


def _saved_name(name: str) -> str:
    """What peft calls a trained weight in an adapter's file, without its prefix."""
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".")

"""Saving a model or its adapter: written beside, looked at, and only then given its name."""

import errno
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from treepo.model.fsdp import plain_weights
from treepo.model.lora import has_adapter
from treepo.model.tokenizer import save_tokenizer
from treepo.utils.foreign_errors import as_os_error
from treepo.utils.io import replacing_folder


def save_model(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokenizer_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model, with its tokenizer if given, or its adapter alone if it has one, to a folder that is there as a
    whole or as it was before.

    tokenizer_files: what the tokenizer is saved as besides, by name; see `LoadedTokenizer`.
    Raises OSError if it cannot be written, or if what was written does not hold the weights.
    """
    with replacing_folder(folder) as partial:
        try:
            model.save_pretrained(partial)
            if tokenizer is not None:
                save_tokenizer(tokenizer, tokenizer_files or {}, partial)
        except SafetensorError as error:
            raise as_os_error(error) from error
        names = ["adapter_config.json" if has_adapter(model) else "config.json"]
        check_saved(
            partial, [*names, *(["tokenizer_config.json"] if tokenizer is not None else [])], saved_weights(model)
        )


def saved_weights(model: PreTrainedModel) -> list[Tensor]:
    """The tensors that `save_pretrained` has to write: those that share their memory once, of adapters the trained."""
    if has_adapter(model):
        return [parameter for parameter in model.parameters() if parameter.requires_grad]
    left_out = set(model._keys_to_ignore_on_save or ())
    weights = {name: tensor for name, tensor in plain_weights(model).items() if name not in left_out}
    return list({(tensor.data_ptr(), tensor.shape): tensor for tensor in weights.values()}.values())


def check_saved(folder: Path, names: Iterable[str], weights: Iterable[Tensor]) -> None:
    """Raise OSError unless the folder has files of these names, its JSON files can be read, and its safetensors hold as
    many numbers as the weights, whose names and layout may be others on disk."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise OSError(errno.EIO, f"{missing[0]} was not written", str(folder))
    try:
        for path in folder.glob("*.json"):
            json.loads(path.read_bytes())
        num_saved = 0
        with ExitStack() as stack:
            for path in folder.glob("*.safetensors"):
                # It refuses a file that is shorter or longer than its header says.
                file = stack.enter_context(safe_open(path, "pt"))
                num_saved += sum(prod(file.get_slice(name).get_shape()) for name in list(file.keys()))
    except (ValueError, SafetensorError) as error:
        raise OSError(errno.EIO, f"what was written cannot be read: {error}", str(folder)) from error
    expected = sum(tensor.numel() for tensor in weights)
    if num_saved < expected:
        raise OSError(errno.EIO, f"{num_saved} of {expected} numbers were written", str(folder))

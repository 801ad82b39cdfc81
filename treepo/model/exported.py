"""A model's weights as engines that hold a copy of them take them: part by part, never all in one place."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_layers import GradientCheckpointingLayer

from treepo.model.fsdp import gather_part, is_sharded, meta_copy_of, plain_weights, reshard
from treepo.model.lora import has_adapter, merged_weights


def exported_weights(model: PreTrainedModel, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of every weight as the checkpoint names it, with adapters merged, one layer after another.

    dtype: of the tensors, that of the model's own if not given. Of a sharded model a layer is gathered when it is
    reached, in that type, and every process has to go through all of them.
    """
    if is_sharded(model):
        reshard(model)
    layers = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    for name in [*layers, ""]:
        # transformers may hold weights in another layout than the checkpoint (experts side by side in one tensor). No
        # name is given to them, so that a layer is freed before the next one is gathered.
        skip = () if name else layers
        yield from revert_weight_conversion(model, _part_weights(model, name, skip=skip, dtype=dtype)).items()


@dataclass
class ExportedWeights:
    """The weights of one update of an engine, for whoever sends them. Every process makes one of a sharded model, and
    calls `finish`; one of them may iterate before.

    Of a sharded model they can be gone through once.
    """

    model: PreTrainedModel
    dtype: torch.dtype | None = None
    _gathering: Iterator[tuple[str, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        if not is_sharded(self.model):
            return exported_weights(self.model, self.dtype)
        assert self._gathering is None, "the others gather once"
        self._gathering = exported_weights(self.model, self.dtype)
        return self._gathering

    def shapes(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) in the same order, of a sharded model with tensors that hold nothing."""
        return exported_weights(meta_copy_of(self.model) if is_sharded(self.model) else self.model, self.dtype)

    def finish(self) -> None:
        """Gather, as the other processes do, what was not gone through: all of it, or the rest after an error."""
        if is_sharded(self.model):
            for _ in self._gathering or iter(self):
                pass


def _part_weights(
    model: PreTrainedModel, name: str, *, skip: list[str] | tuple[()], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The whole weights of one part of a model, a layer or, with an empty name, what is in none, by full names."""
    skipped = tuple(f"{layer}." for layer in skip)
    # Adapters are merged in the type of the weights.
    is_merged = has_adapter(model)
    part = gather_part(model, name, skip=skipped, dtype=None if is_merged else dtype)
    found = merged_weights(part, skip=skipped) if is_merged else _weights_of(part, skipped)
    prefix = f"{name}." if name else ""
    return {f"{prefix}{key}": _in_type(tensor, dtype) for key, tensor in found}


def _weights_of(part: nn.Module, skip: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in plain_weights(part).items() if not name.startswith(skip))


def _in_type(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

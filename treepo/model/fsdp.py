"""A model whose weights are divided over processes (FSDP2), and how the rest of the code meets it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import MethodType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

P = ParamSpec("P")
T = TypeVar("T")

WITHIN = "within"
"""Name of the method through which a sharded model does other work than its forward."""


def shard(model: PreTrainedModel, mesh: DeviceMesh, is_trained: bool = True) -> None:
    """Divide a model's weights over the processes of a mesh; gradients are sums over all of them, not means.

    mesh: of one dimension, or of two, over the first of which the shards are copies of each other (HSDP). A layer's
    weights are gathered when it is computed. is_trained: if not, no backward follows, after which the model's other
    weights would be let go, so they are after its forward. Raises ValueError for a model that cannot be divided.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    try:
        for part in [*layers, model]:
            fully_shard(part, mesh=mesh)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"processes: {model.config.model_type!r} cannot be divided: {error}") from error
    for part in sharded_parts(model):
        part.set_gradient_divide_factor(1.0)
        # gloo has no other.
        part.set_force_sum_reduction_for_comms(True)
    _free_after_forward(model, is_trained)
    setattr(model, WITHIN, MethodType(_call, model))
    register_fsdp_forward_method(model, WITHIN)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called."""
    return isinstance(model, FSDPModule)


def sharded_parts(model: nn.Module) -> list[FSDPModule]:
    """The modules whose weights are gathered at a time: the layers, and the model for all that is in none."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def run_under_fsdp(model: nn.Module, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """work(*args), which computes with parts of a model, as its own forward would: where it is sharded its weights are
    gathered and gradients reach them. What has a gradient must be a tensor of the returned tuple."""
    if not is_sharded(model):
        return work(*args, **kwargs)
    return getattr(model, WITHIN)(work, *args, **kwargs)


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """All of a model's weights lie on this process, as plain tensors, while this lasts; all processes have to enter.

    Within, each may compute for itself, without gradients. Nothing happens if they do already.
    """
    # Of all parameters: a forward without a backward leaves those of the model itself gathered, and no layer's.
    if not is_sharded(model) or not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        yield
        return
    assert isinstance(model, FSDPModule)
    model.set_reshard_after_forward(False)
    parts = sharded_parts(model)
    try:
        for part in parts:
            part.unshard()
        yield
    finally:
        for part in parts:
            part.reshard()
        _free_after_forward(model)


def own_class(module: nn.Module) -> type:
    """The class of a module as it was written: sharding puts one of its own in front."""
    kind = type(module)
    return kind.__mro__[2] if issubclass(kind, FSDPModule) else kind


def to_local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name, as `state_dict` gives them, of a model that is whole; a sharded model's own
    `state_dict` would divide it again."""
    if not is_sharded(model):
        return model.state_dict()
    weights: dict[str, Tensor] = {k: v.detach() for k, v in model.named_parameters(remove_duplicate=False)}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                weights[f"{prefix}.{name}" if prefix else name] = buffer
    return weights


def meta_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy without weights, for `materialize`; it takes no memory. Must be made before the model is sharded."""
    return deepcopy(model, {id(p): _like(p, torch.empty_like(p, device="meta")) for p in model.parameters()})


def materialize(meta_model: PreTrainedModel, model: nn.Module) -> PreTrainedModel:
    """A copy on the CPU, of what is whole, that is a model like any other."""
    pairs = zip(meta_model.named_parameters(), model.named_parameters(), strict=True)
    memo: dict[int, Any] = {}
    for (name, empty), (other, full) in pairs:
        assert name == other and empty.shape == full.shape, "the meta_model is this model's"
        memo[id(empty)] = _like(empty, full.detach().to("cpu", copy=True))
    return deepcopy(meta_model, memo)


def _call(model: nn.Module, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ARG001 - a method
    return work(*args, **kwargs)


def _free_after_forward(model: nn.Module, is_trained: bool = True) -> None:
    """A layer's weights are let go after its forward, and gathered again for its backward; the model's other weights,
    which are needed at both ends, are not where there is a backward."""
    assert isinstance(model, FSDPModule)
    model.set_reshard_after_forward(True)
    model.set_reshard_after_forward(not is_trained, recurse=False)


def _like(parameter: nn.Parameter, tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)

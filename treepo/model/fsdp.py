"""Sharding a model's weights over processes (FSDP2), and how the rest of the code computes with a sharded model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from types import MethodType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from treepo.errors import SettingError
from treepo.model.passes import count_collectives

P = ParamSpec("P")
T = TypeVar("T")

WORK_METHOD = "run_work"
"""Name of the method by which a sharded model runs other work than its forward."""

META = "meta_copy"
"""Name of the attribute of a sharded model that holds a copy of it without weights."""


def mixed_precision(param_dtype: str = "same", reduce_dtype: str = "same") -> MixedPrecisionPolicy:
    """Return the types in which weights are gathered and gradients summed, by their names in torch; "same" is that of
    the weights, or, for gradients, that in which these are gathered."""
    param, reduce = (None if name == "same" else getattr(torch, name) for name in (param_dtype, reduce_dtype))
    return MixedPrecisionPolicy(param_dtype=param, reduce_dtype=reduce)


@dataclass(frozen=True)
class Sharding:
    """How a model is divided; see `shard`."""

    mesh: DeviceMesh
    precision: MixedPrecisionPolicy


def shard(
    model: PreTrainedModel,
    mesh: DeviceMesh,
    is_trained: bool = True,
    precision: MixedPrecisionPolicy = MixedPrecisionPolicy(),  # noqa: B008 - frozen
    load: Callable[[nn.Parameter], Tensor] | None = None,
) -> None:
    """Shard a model's weights over the processes of a mesh; gradients are sums over all of them, not means.

    mesh: of one dimension, or of two, along the first of which shards are replicated (HSDP). A layer's weights are
    gathered when it is computed. is_trained: without it no backward follows, so the model's other weights are freed
    after its forward. precision: see `mixed_precision`; what is gathered is computed with, by engines that read the
    model, too, while shards keep their type. load: returns the values of a parameter on the meta device, asked for when
    the layer is sharded, so that no other holds whole weights by then. Raises SettingError for a model that cannot be
    sharded.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        raise SettingError("lora.load_in_4bit", "is for one process", True)
    meta = _Meta(_meta_copy(model))
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    try:
        for part in [*layers, model]:
            if load is not None:
                _fill(part, load)
            fully_shard(part, mesh=mesh, mp_policy=precision)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise SettingError("processes", f"{model.config.model_type!r} cannot be sharded: {error}") from error
    for part in sharded_parts(model):
        part.set_gradient_divide_factor(1.0)
        # gloo has no other.
        part.set_force_sum_reduction_for_comms(True)
    count_collectives(model, sharded_parts(model), has_replicas=mesh.ndim > 1)
    _free_after_forward(model, is_trained)
    setattr(model, META, meta)
    setattr(model, WORK_METHOD, MethodType(_call, model))
    register_fsdp_forward_method(model, WORK_METHOD)


def _fill(part: nn.Module, load: Callable[[nn.Parameter], Tensor]) -> None:
    """Give a part its weights that are on the meta device; tied ones stay one."""
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for module in part.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                if parameter not in filled:
                    filled[parameter] = _like(parameter, load(parameter))
                setattr(module, name, filled[parameter])


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard` was called."""
    return isinstance(model, FSDPModule)


def sharded_parts(model: nn.Module) -> list[FSDPModule]:
    """Return the modules whose weights are gathered together: the layers, and the model for all that is in none."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def run_under_fsdp(model: nn.Module, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return work(*args), which computes with parts of a model, as the model's own forward would: where it is sharded
    its weights are gathered and gradients reach them. Results with gradients must be tensors of a returned tuple."""
    if not is_sharded(model):
        return work(*args, **kwargs)
    return getattr(model, WORK_METHOD)(work, *args, **kwargs)


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Hold all of a model's weights on this process, as plain tensors, inside the block; all processes have to enter.

    Inside, each process may compute on its own, without gradients. Does nothing where they are unsharded already.
    """
    # All parameters are looked at: a forward without a backward leaves those outside the layers gathered.
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


def to_local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return all of a tensor; every process has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers by name, like `state_dict`, of an unsharded model; a sharded model's own `state_dict`
    would shard it again."""
    if not is_sharded(model):
        return model.state_dict()
    weights: dict[str, Tensor] = {k: v.detach() for k, v in model.named_parameters(remove_duplicate=False)}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                weights[f"{prefix}.{name}" if prefix else name] = buffer
    return weights


def meta_copy_of(model: nn.Module) -> PreTrainedModel:
    """Return the copy of a sharded model that has no weights; it takes no memory."""
    return getattr(model, META).model


def reshard(model: nn.Module) -> None:
    """Free what a sharded model has gathered: a forward without a backward leaves some."""
    for part in sharded_parts(model):
        part.reshard()


def gather_part(
    model: nn.Module, name: str = "", *, skip: tuple[str, ...] = (), dtype: torch.dtype | None = None
) -> nn.Module:
    """Return a plain copy of a part of a resharded model, with whole weights; every process has to call it. A part of a
    model that is not sharded is returned itself.

    skip: beginnings of names of weights that are left empty. dtype: of the copy's weights, which travel in it.
    """
    part = model.get_submodule(name)
    if not is_sharded(model):
        return part
    empty = meta_copy_of(model).get_submodule(name)
    memo: dict[int, Any] = {}
    pairs = zip(empty.named_parameters(), part.named_parameters(), strict=True)
    for (key, old), (other, shards) in pairs:
        assert key == other and old.shape == shards.shape, "the meta copy is of this model"
        if not key.startswith(skip):
            memo[id(old)] = _like(old, full_tensor(shards.detach().to(dtype or shards.dtype)))
    return deepcopy(empty, memo)


def gathered_copy(model: PreTrainedModel, is_kept: bool = True) -> PreTrainedModel:
    """Return a sharded model as an ordinary one on the CPU, a model that is not sharded itself. Every process has to
    call it. is_kept: without it the weights stay empty in this process, which holds one whole tensor at a time."""
    if not is_sharded(model):
        return model
    reshard(model)
    memo: dict[int, Any] = {}
    empty, failure = meta_copy_of(model), None
    for old, shards in zip(empty.parameters(), model.parameters(), strict=True):
        whole = full_tensor(shards.detach())
        if is_kept and failure is None:
            try:
                memo[id(old)] = _like(old, whole.to("cpu", copy=True))
            except (RuntimeError, MemoryError) as error:
                # The other processes wait for this one's shards of what is left.
                failure = error
    if failure is not None:
        raise failure
    return deepcopy(empty, memo) if is_kept else empty


@dataclass(frozen=True)
class _Meta:
    """Keeps a model out of the modules of another."""

    model: PreTrainedModel


def _meta_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy without weights."""
    return deepcopy(model, {id(p): _like(p, torch.empty_like(p, device="meta")) for p in model.parameters()})


def _call(model: nn.Module, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ARG001 - a method
    return work(*args, **kwargs)


def _free_after_forward(model: nn.Module, is_trained: bool = True) -> None:
    """Free a layer's weights after its forward, and gather them again for its backward; the model's other weights,
    which are needed at both ends, stay if there is a backward."""
    assert isinstance(model, FSDPModule)
    model.set_reshard_after_forward(True)
    model.set_reshard_after_forward(not is_trained, recurse=False)


def _like(parameter: nn.Parameter, tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)

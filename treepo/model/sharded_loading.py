"""Loading a model that is divided over processes: each holds its shards, and while it reads one layer."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from treepo.model.fsdp import Sharding, shard

logger = logging.getLogger(__name__)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_sharded(
    base: str, config: PreTrainedConfig, arguments: dict[str, Any], device: str, sharding: Sharding
) -> PreTrainedModel | None:
    """Make a model without weights, and shard it part by part as its weights are read; all processes have to call it.

    base: folder or name on the hub. arguments: of transformers' `from_pretrained`. None where the files do not hold all
    weights under the model's own names and shapes, so that transformers has to convert them.
    """
    if getattr(config, "quantization_config", None) is not None:
        return None
    own = {name: arguments[name] for name in ("dtype", "attn_implementation", "trust_remote_code")}
    with parameters_on_meta():
        model = AutoModelForCausalLM.from_config(config, **own)
    with ExitStack() as stack:
        find = _tensor_finder(base, arguments["revision"], model, stack)
        if find is None:
            logger.info("weights are stored under other names: each process loads all of them before they are sharded")
            return None
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        dtype = arguments["dtype"]

        def load(parameter: nn.Parameter) -> Tensor:
            return find(parameter).to(device, dtype, copy=True)

        shard(model, sharding.mesh, precision=sharding.precision, load=load)
    # Not every model comes with one; then it is made of the config.
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(base, revision=arguments["revision"] or "main")
    return model


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made inside have parameters that hold nothing, and buffers as ever."""
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        # One that is tied stays the same one.
        if param is not None and not param.is_meta:
            self._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)

    nn.Module.register_parameter = register_on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _tensor_finder(
    base: str, revision: str | None, model: PreTrainedModel, stack: ExitStack
) -> Callable[[nn.Parameter], Tensor] | None:
    """What reads the tensor of a parameter; None unless there is one of its name and shape for each. stack: closes the
    files."""
    paths = _weight_files(base, revision)
    opened = {path: stack.enter_context(safe_open(path, "pt")) for path in sorted(set(paths.values()))}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = model.state_dict().keys() - parameters.keys()
    # Of tied ones only one name is in the files.
    names = {id(parameter): name for name, parameter in reversed(parameters.items()) if name in paths}
    if buffers or any(id(parameter) not in names for parameter in parameters.values()):
        return None
    for parameter in parameters.values():
        name = names[id(parameter)]
        if tuple(opened[paths[name]].get_slice(name).get_shape()) != tuple(parameter.shape):
            return None

    def find(parameter: nn.Parameter) -> Tensor:
        name = names[id(parameter)]
        return opened[paths[name]].get_tensor(name)

    return find


def _weight_files(base: str, revision: str | None) -> dict[str, Path]:
    """The file of each tensor by name; empty where there are no safetensors."""
    index = _file(base, revision, INDEX)
    if index is not None:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # What lies elsewhere is not looked for.
        files = {name: _file(base, revision, name) for name in set(weight_map.values()) if Path(name).name == name}
        return {name: path for name, file in weight_map.items() if (path := files.get(file)) is not None}
    path = _file(base, revision, WEIGHTS)
    if path is None:
        return {}
    with safe_open(path, "pt") as file:
        return dict.fromkeys(file.keys(), path)


def _file(base: str, revision: str | None, name: str) -> Path | None:
    found = cached_file(
        base,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)

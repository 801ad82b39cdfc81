"""The state that training changes: weights, optimizer, schedule, random state."""

import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import LostError, SettingError
from treepo.plan.running import RunningPlanner
from treepo.utils.foreign_errors import is_lost_process

WEIGHTS = "model."
"""Names of weights in a checkpoint begin with this."""


def seed_random(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators, so that other libraries draw the same from them in every run."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of the generators of Python, numpy and torch, on the CPU and every GPU.

    This package never draws from them: its seeds derive from the run's. A user's loss, reward or model may.
    """
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the generators; those of GPUs only on a machine with as many."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_tensor(text) for text in state["cuda"]])


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _tensor(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Write this process's shards of tensors; they are on disk when this returns.

    group: the processes that the tensors are sharded over; this one alone if not given. Raises OSError, in all of
    them, if it cannot be written.
    """
    _expect_one_process()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error) from error
    except RuntimeError as error:
        raise (LostError(str(error)) if is_lost_process(error) else error) from error


def load_tensors(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Read this process's shards of tensors in place. group: see `save_tensors`.

    Raises OSError if the folder cannot be read, RuntimeError if it lacks one of the tensors or has another shape.
    """
    _expect_one_process()
    try:
        reader = HuggingFaceStorageReader(str(folder))
        load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error) from error


def saved_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Name -> (shape, type) of the whole tensors in a folder."""
    saved = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {k: (v.size, v.properties.dtype) for k, v in saved.items() if isinstance(v, TensorStorageMetadata)}


def weight_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights that checkpoints of a model hold, by their names there; one of several names under its first."""
    weights: dict[Tensor, str] = {}
    # Weights in 4 bits add their scales to the state without being told.
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for name, weight in model.state_dict(keep_vars=True).items():
        if weight.requires_grad or name in buffers:
            weights.setdefault(weight, name)
    return {f"{WEIGHTS}{name}": weight.detach() for weight, name in weights.items()}


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights saved in a folder, and nothing else of the state, into a model that is not sharded.

    Raises SettingError if they are not those of this model.
    """
    tensors = weight_tensors(model)
    saved = {name: facts for name, facts in saved_shapes(folder).items() if name.startswith(WEIGHTS)}
    _check_alike(folder, saved, tensors)
    with torch.no_grad():
        load_tensors(folder, tensors)


def _check_alike(folder: Path, saved: Mapping[str, tuple[torch.Size, torch.dtype]], own: Mapping[str, Tensor]) -> None:
    """Raise SettingError unless what was saved has the names, shapes and types of the tensors."""
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in own.items()}
    if unlike := sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name)):
        raise SettingError("resume", f"{str(folder)!r} holds other tensors than the model has, such as {unlike[0]!r}")


def _cause(error: CheckpointException) -> BaseException:
    """The error of the first process that had one."""
    return next(iter(error.failures.values()))[0]


def _expect_one_process() -> None:
    """Without a process group torch warns that it will work in one process, which is intended.

    The filter stays: filters belong to the whole process, so a thread could not set one and remove it again.
    """
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)


@dataclass(frozen=True, eq=False)
class TrainState:
    """The model that is trained, its optimizer and its schedule, whose state is copied and restored.

    Names are those of the parameters, so that the state of a model that is sharded over processes is the same but for
    its tensors being DTensors. Weights that are not trained are left out: they are those of the model that was loaded.
    processes: those that it is sharded over; all take part in `scalars` and `restore`. planner: what has been seen of
    the run's trees, if their shape follows it.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    processes: DistContext = SINGLE_PROCESS
    planner: RunningPlanner | None = None

    def copy_tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of weights and moments, by name."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors().items()}

    def scalars(self) -> dict[str, Any]:
        """The rest of the state, for JSON. The optimizer's groups change in their learning rate alone, which the
        schedule gives. Every process has random generators of its own."""
        schedule = {name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"}
        entries = self._optimizer_entries()
        numbers = {name: value for name, value in entries.items() if not isinstance(value, Tensor)}
        scalars = {"schedule": schedule, "optimizer": numbers, "random": self.processes.all_gather(random_state())}
        return scalars | ({"plan": self.planner.state()} if self.planner else {})

    def restore(self, folder: Path, scalars: dict[str, Any]) -> None:
        """Load the tensors saved in a folder, and the `scalars` saved beside them.

        Raises SettingError if they are not those of this model.
        """
        saved = saved_shapes(folder)
        self.optimizer.load_state_dict(self._empty_state(saved, dict(scalars.get("optimizer", {}))))
        tensors = self._tensors()
        _check_alike(folder, saved, tensors)
        with torch.no_grad():
            load_tensors(folder, tensors, self.processes.group)
        self.schedule.load_state_dict(scalars["schedule"] | {"lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
        for group, lr in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        if self.planner:
            self.planner.restore(scalars["plan"])
        set_random_state(scalars["random"][self.processes.rank % len(scalars["random"])])

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors themselves; one that has several names, such as tied embeddings, under its first.

        torch's get_state_dict would do, but it keeps frozen weights that are tied, and takes a step with zero gradients
        where none was taken yet.
        """
        tensors = weight_tensors(self.model)
        entries = self._optimizer_entries()
        return tensors | {f"optimizer.{k}": value for k, value in entries.items() if isinstance(value, Tensor)}

    def _optimizer_entries(self) -> dict[str, Tensor | int | float]:
        """The optimizer's state by the names of parameter and entry; bitsandbytes counts steps in plain numbers."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        entries: dict[str, Tensor | int | float] = {}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                assert isinstance(value, Tensor | int | float), f"{key} of the optimizer is a tensor or a number"
                entries[f"{names[parameter]}.{key}"] = value
        return entries

    def _empty_state(
        self, saved: dict[str, tuple[torch.Size, torch.dtype]], numbers: dict[str, int | float]
    ) -> dict[str, Any]:
        """An optimizer state with the shapes of what was saved, and its numbers; a parameter without a gradient so far
        has none."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        places = {parameter: place for place, parameter in enumerate(parameters)}
        state: dict[int, dict[str, Tensor | int | float]] = {}
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            for key in [k for k in saved if k.startswith(prefix) and "." not in k[len(prefix) :]]:
                size, dtype = saved[key]
                is_alike = size == parameter.shape
                room = torch.zeros_like(parameter, dtype=dtype) if is_alike else torch.zeros(size, dtype=dtype)
                state.setdefault(places[parameter], {})[key[len(prefix) :]] = room
        by_name = dict(self.model.named_parameters())
        for name, number in numbers.items():
            parameter, _, key = name.rpartition(".")
            state.setdefault(places[by_name[parameter]], {})[key] = number
        return {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}

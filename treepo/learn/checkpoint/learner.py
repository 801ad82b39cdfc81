"""What learning changes: weights, the optimiser's moments, the schedule, the random generators."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from treepo.learn.checkpoint.random_state import random_state, set_random_state
from treepo.learn.checkpoint.sharded import load_tensors, saved_shapes
from treepo.processes import ALONE, Processes


@dataclass(frozen=True, eq=False)
class Learner:
    """The model that is trained, its optimiser and its schedule, whose state is copied and put back.

    Names are those of the parameters, so that the state of a model that is sharded over processes is the same but for
    its tensors being DTensors. Weights that are not trained are left out: they are those of the model that was loaded.
    processes: those that it is sharded over; all take part in `scalars` and `restore`.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    processes: Processes = ALONE

    def copy_tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of weights and moments, by name."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors().items()}

    def scalars(self) -> dict[str, Any]:
        """The rest of the state, as JSON holds it. Of the optimiser's groups only the rate moves; settings give the
        others. Every process has random generators of its own."""
        schedule = {name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"}
        return {"schedule": schedule, "random": self.processes.gather(random_state())}

    def restore(self, folder: Path, scalars: dict[str, Any]) -> None:
        """Take over the tensors saved in a folder, and what `scalars` gave beside them.

        Raises ValueError if they are not those of this model.
        """
        saved = saved_shapes(folder)
        self.optimizer.load_state_dict(self._empty_state(saved))
        tensors = self._tensors()
        if unlike := sorted(name for name in saved.keys() | tensors.keys() if not _fits(saved, tensors, name)):
            raise ValueError(f"resume: {str(folder)!r} holds other tensors than the model has, such as {unlike[0]!r}")
        with torch.no_grad():
            load_tensors(folder, tensors, self.processes.group)
        self.schedule.load_state_dict(scalars["schedule"] | {"lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
        for group, lr in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        set_random_state(scalars["random"][self.processes.rank % len(scalars["random"])])

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors themselves; one that has several names, such as tied embeddings, under its first.

        torch's get_state_dict would do, but it keeps frozen weights that are tied, and takes a step with zero gradients
        where none was taken yet.
        """
        weights: dict[Tensor, str] = {}
        for name, weight in self.model.state_dict(keep_vars=True).items():
            if weight.requires_grad or not isinstance(weight, nn.Parameter):
                weights.setdefault(weight, name)
        tensors = {f"model.{name}": weight.detach() for weight, name in weights.items()}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                assert isinstance(value, Tensor), f"{key} of the optimiser is a tensor"
                tensors[f"optimizer.{names[parameter]}.{key}"] = value
        return tensors

    def _empty_state(self, saved: dict[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Any]:
        """A state of the optimiser with room for what was saved; a parameter without a gradient so far has none."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        places = {parameter: place for place, parameter in enumerate(parameters)}
        state: dict[int, dict[str, Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            for key in [k for k in saved if k.startswith(prefix) and "." not in k[len(prefix) :]]:
                size, dtype = saved[key]
                is_alike = size == parameter.shape
                room = torch.zeros_like(parameter, dtype=dtype) if is_alike else torch.zeros(size, dtype=dtype)
                state.setdefault(places[parameter], {})[key[len(prefix) :]] = room
        return {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}


def _fits(saved: dict[str, tuple[torch.Size, torch.dtype]], tensors: dict[str, Tensor], name: str) -> bool:
    tensor = tensors.get(name)
    return tensor is not None and saved.get(name) == (tensor.shape, tensor.dtype)

"""The state of a small model with every kind of weight, and its updates."""

import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

from treepo.learn.checkpoint import CheckpointStore, Progress, Snapshot
from treepo.learn.optim import make_optimizer
from treepo.learn.settings import OptimSettings
from treepo.learn.train_state import TrainState


class Model(nn.Module):
    """Tied weights, a frozen one, a buffer, and one that never has a gradient."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(3, 3, generator=generator))
        self.tied = self.first
        self.narrow = nn.Parameter(torch.randn(3, generator=generator).bfloat16())
        self.frozen = nn.Parameter(torch.randn(3, generator=generator), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(2, generator=generator))
        self.register_buffer("seen", torch.tensor(seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.first @ self.tied * self.narrow * self.frozen).square().mean()


def make_train_state(seed: int) -> TrainState:
    model = Model(seed)
    return TrainState(model, *make_optimizer(model, OptimSettings(lr=0.1, warmup_steps=7)))


def step(train_state: TrainState, number: int) -> None:
    """One update, with noise of the global generators in it."""
    x = torch.randn(4, 3) + random.random() + float(np.random.rand()) + number
    train_state.optimizer.zero_grad()
    train_state.model(x).backward()
    train_state.optimizer.step()
    train_state.schedule.step()


def weights(train_state: TrainState) -> dict[str, bytes]:
    state = train_state.model.state_dict()
    return {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in state.items()}


def drawn() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def save(store: CheckpointStore, train_state: TrainState, progress: Progress) -> Path:
    store.write(Snapshot.of(train_state, progress))
    return store.folder / f"step-{progress.step:06d}"

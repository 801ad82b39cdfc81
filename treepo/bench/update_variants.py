"""Who is measured: one update, packed, padded, or laid out by length."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treepo.bench.models import Workload
from treepo.bench.settings import UpdateBenchSettings
from treepo.learn.losses import PPO, Penalties, TokenMean
from treepo.learn.optim import make_optimizer
from treepo.learn.packing import PackedTree
from treepo.learn.scoring import Scorer
from treepo.learn.settings import OptimSettings
from treepo.learn.updater import Updater
from treepo.model.compatibility import has_plain_head
from treepo.model.policy import recompute_activations

PACKED = "packed"
"""What trajectories share is computed once; all others are compared with this."""

PADDED = "padded"
"""Trajectories as rows with padding, through the model as transformers runs it; gradients are compared with this."""

LENGTH_PACKED = "length-packed"
"""Trajectories side by side without padding."""

NAMES = (PACKED, PADDED, LENGTH_PACKED)


@dataclass(eq=False)
class UpdateContender:
    """One way of making an update; every run starts from the weights of `start` and a fresh optimiser."""

    name: str
    updater: Updater
    start: PreTrainedModel
    workload: Workload
    parts: list[PackedTree] = field(default_factory=list)
    pack_seconds: list[float] = field(default_factory=list)

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Of the model that is updated."""
        return list(self.updater.scorer.model.parameters())

    @torch.no_grad()
    def prepare(self) -> None:
        """Weights, gradients and optimiser as before the first run; see Timed."""
        self.parts = []
        self.updater.optimizer.zero_grad(set_to_none=True)
        for own, first in zip(self.parameters, self.start.parameters(), strict=True):
            own.copy_(first)
        # A fresh state is all zeros; it is kept, so that no run has to make it.
        for state in self.updater.optimizer.state.values():
            for value in state.values():
                value.zero_()
        self._wait()

    def run(self) -> None:
        """Pack, and make one update; see Timed."""
        start = perf_counter()
        workload = self.workload
        packed = [self.updater.pack(*tree) for tree in zip(workload.trees, workload.advantages, strict=True)]
        self.parts = self.updater.prepare([part for parts in packed for part in parts])
        self.pack_seconds.append(perf_counter() - start)
        self.updater.update(self.parts)
        self._wait()

    def num_forwarded(self) -> int:
        """Tokens of the last run's forwards, with padding."""
        sizes = [part.num_tokens for part in self.parts]
        if self.updater.scorer.supports_tree_attention:
            return sum(sizes)
        batches = self.updater.scorer.batches(self.parts, self.updater.max_tokens)
        return sum(len(batch) * max(sizes[i] for i in batch) for batch in batches)

    def gradients(self) -> list[Tensor]:
        """Of the last run's loss, per parameter."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def _wait(self) -> None:
        device = self.start.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def make_contender(
    name: str, start: PreTrainedModel, settings: UpdateBenchSettings, workload: Workload
) -> UpdateContender:
    """One of NAMES, with a model and an optimiser of its own."""
    model = deepcopy(start)
    supports_tree_attention = name != PADDED
    if not supports_tree_attention:
        model.set_attn_implementation("sdpa")
    if settings.gradient_checkpointing:
        recompute_activations(model)
    scorer = Scorer(
        model,
        has_plain_head=has_plain_head(model, supports_tree_attention),
        supports_tree_attention=supports_tree_attention,
    )
    optimizer, schedule = make_optimizer(model, OptimSettings(warmup_steps=0))
    # Gradients are left as long as they are, so that they can be compared.
    updater = Updater(
        scorer=scorer,
        loss=PPO(),
        aggregation=TokenMean(),
        penalties=Penalties(),
        optimizer=optimizer,
        schedule=schedule,
        max_tokens_per_micro_batch=settings.max_tokens_per_micro_batch,
        max_grad_norm=math.inf,
        packing=name == PACKED,
    )
    return UpdateContender(name, updater, start, workload)

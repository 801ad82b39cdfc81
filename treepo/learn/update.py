"""One optimiser update from packed trees."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from treepo.learn.loss import ClippedLoss
from treepo.learn.packing import PackedTree, TreeBatch, micro_batches
from treepo.learn.scoring import score


class NonFiniteUpdateError(Exception):
    """Loss or gradients are not finite; `batch` is the one that did it."""

    def __init__(self, what: str, batch: TreeBatch) -> None:
        super().__init__(f"{what} is not finite")
        self.batch = batch


@dataclass(frozen=True)
class Updater:
    """Turns a mini-batch of packed trees into one step of the optimiser.

    max_tokens: most packed tokens of one forward. temperature: the one the trees were sampled at.
    """

    model: PreTrainedModel
    loss: ClippedLoss
    optimizer: Optimizer
    schedule: LambdaLR
    max_tokens: int
    max_grad_norm: float
    temperature: float = 1.0

    def update(self, trees: Sequence[PackedTree]) -> dict[str, float]:
        """One update on the mean over all response tokens of these trees; metrics are means over them too."""
        num_tokens = sum(int(tree.num_leaves.sum()) for tree in trees)
        totals: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        batch = None
        for batch in micro_batches(trees, self.max_tokens):
            loss, sums = self.loss_sum(batch)
            if not torch.isfinite(loss):
                raise NonFiniteUpdateError("loss", batch)
            (loss / num_tokens).backward()
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value / num_tokens
        assert batch is not None, "an update needs at least one tree"
        norm = clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        if not torch.isfinite(norm):
            raise NonFiniteUpdateError("gradient norm", batch)
        self.optimizer.step()
        totals |= {"grad_norm": float(norm), "lr": float(self.schedule.get_last_lr()[0])}
        self.schedule.step()
        return totals

    def loss_sum(self, batch: TreeBatch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and its metrics, summed over the response tokens of all its trajectories."""
        scores = score(self.model, batch, self.temperature)
        logprobs, packed = scores.policy_logprobs, batch.packed
        terms = [_like(logprobs, x) for x in (packed.sampled_logprobs, packed.positive, packed.negative)]
        loss = self.loss(logprobs, *terms)
        with torch.no_grad():
            weight = _like(logprobs, packed.num_leaves)
            log_ratio = logprobs - terms[0]
            sums: dict[str, Tensor] = {
                "loss": loss.detach(),
                "entropy": (weight * scores.entropies).sum(),
                "clip_fraction": (weight * self.loss.clipped(logprobs, *terms)).sum(),
                # k3 of Schulman's "Approximating KL divergence": unbiased and never negative.
                "kl": (weight * (torch.expm1(log_ratio) - log_ratio)).sum(),
            }
        return loss, {name: float(value) for name, value in sums.items()}


def _like(reference: Tensor, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(reference.device, reference.dtype)

"""One optimiser update from packed trees."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from treepo.learn.batches import TreeBatch, join
from treepo.learn.loss import Aggregation, Loss, Penalties, terms_of
from treepo.learn.loss.penalties import kl_estimates
from treepo.learn.packing import PackedTree, pack_apart, pack_within
from treepo.learn.reference import Reference
from treepo.learn.scoring import Scorer
from treepo.tree import Tree


class NonFiniteUpdateError(Exception):
    """Loss or gradients are not finite; `batch` is the one that did it."""

    def __init__(self, what: str, batch: TreeBatch) -> None:
        super().__init__(f"{what} is not finite")
        self.batch = batch


@dataclass(frozen=True)
class Updater:
    """Packs trees, and turns a mini-batch of them into one step of the optimiser.

    max_tokens: most packed tokens of one forward. packing: whether what trajectories share is computed once.
    rescoring: whether the trainer's own log-probabilities, as they are before the first update of a step, take the
    place of the engine's. max_importance: with rescoring, the bound of the weights by which tokens that the engine drew
    from another distribution are made up for; None for no weights. reference: needed where a penalty refers to it.
    """

    scorer: Scorer
    loss: Loss
    aggregation: Aggregation
    penalties: Penalties
    optimizer: Optimizer
    schedule: LambdaLR
    max_tokens: int
    max_grad_norm: float
    packing: bool = True
    rescoring: bool = False
    max_importance: float | None = None
    reference: Reference | None = None

    def pack(self, tree: Tree, advantages: np.ndarray) -> list[PackedTree]:
        """One tree in as few parts as memory allows, or, where nothing is to be shared, in its trajectories."""
        return pack_within(tree, advantages, self.max_tokens) if self.packing else pack_apart(tree, advantages)

    def prepare(self, trees: Sequence[PackedTree]) -> list[PackedTree]:
        """What has to be known of a step's trees before its first update changes the policy."""
        if self.rescoring:
            scored = self.scorer.logprobs(trees, self.max_tokens)
            trees = [replace(tree, rescored_logprobs=own) for tree, own in zip(trees, scored, strict=True)]
        if self.reference is not None:
            with self.reference() as model:
                scored = replace(self.scorer, model=model).logprobs(trees, self.max_tokens)
            trees = [replace(tree, ref_logprobs=own) for tree, own in zip(trees, scored, strict=True)]
        return list(trees)

    def update(self, trees: Sequence[PackedTree]) -> dict[str, float]:
        """One update on these trees; metrics are means over the response tokens of all their trajectories, and those of
        `mismatch_figures`, which say how far the engine is from the policy where this is the first update of a step."""
        assert trees, "an update needs at least one tree"
        num_tokens = sum(tree.num_response_tokens for tree in trees)
        weighed = weigh(trees, self.aggregation)
        totals: dict[str, float] = {}
        gaps: list[np.ndarray] = []
        self.optimizer.zero_grad(set_to_none=True)
        for indices in self.scorer.batches(weighed, self.max_tokens):
            batch = join([weighed[i] for i in indices])
            loss, sums, gap = self.loss_sum(batch)
            gaps.append(gap)
            if not torch.isfinite(loss):
                raise NonFiniteUpdateError("loss", batch)
            loss.backward()
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value / num_tokens
            totals["loss"] = totals.get("loss", 0.0) + float(loss.detach())
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_grad_norm_(trained, self.max_grad_norm)
        if not torch.isfinite(norm):
            raise NonFiniteUpdateError("gradient norm", join(weighed))
        self.optimizer.step()
        totals |= {"grad_norm": float(norm), "lr": float(self.schedule.get_last_lr()[0])}
        self.schedule.step()
        return totals | mismatch_figures(np.concatenate(gaps))

    def loss_sum(self, batch: TreeBatch) -> tuple[Tensor, dict[str, float], np.ndarray]:
        """The loss of a batch with its weights; its metrics summed over the response tokens of all trajectories; and
        per term the policy's log-probability minus the engine's."""
        scores = self.scorer(batch, entropy_has_grad=self.penalties.entropy != 0)
        terms = terms_of(batch.packed, scores.policy_logprobs, self.max_importance)
        ref_logprobs = torch.from_numpy(batch.packed.ref_logprobs).to(scores.policy_logprobs)
        loss = self.loss(terms) + self.penalties(terms, ref_logprobs, scores.entropies)
        with torch.no_grad():
            sums = {
                "entropy": (terms.num_leaves * scores.entropies).sum(),
                "clip_fraction": self.loss.num_clipped(terms),
                # Of what was sampled, from the policy as it is now; k3 is never negative.
                "kl": (terms.num_leaves * kl_estimates(terms.sampled_logprobs, terms.policy_logprobs, "k3")).sum(),
            }
            if self.reference is not None:
                estimates = kl_estimates(terms.policy_logprobs, ref_logprobs, "k3")
                sums["kl_reference"] = (terms.num_leaves * estimates).sum()
        gaps = scores.policy_logprobs.detach().cpu().numpy() - batch.packed.sampled_logprobs
        return loss, {name: float(value) for name, value in sums.items()}, gaps


def weigh(trees: Sequence[PackedTree], aggregation: Aggregation) -> list[PackedTree]:
    """The trees of one update with the weight of each trajectory's tokens."""
    weights = aggregation(np.concatenate([tree.lens for tree in trees]))
    bounds = np.cumsum([len(tree.lens) for tree in trees])[:-1]
    return [replace(tree, leaf_weights=own) for tree, own in zip(trees, np.split(weights, bounds), strict=True)]


def mismatch_figures(gaps: np.ndarray) -> dict[str, float]:
    """How far the distribution that an engine samples from is from the policy's, by their log-probabilities of what it
    sampled: mean and maximum of the distance, and an estimate of KL(engine | policy).

    gaps [S]: policy's minus engine's. The estimate is k3, the mean of exp(gap) - 1 - gap; see kl_estimates.
    """
    wide = gaps.astype(np.float64)
    with np.errstate(over="ignore"):
        kl = float((np.expm1(wide) - wide).mean())
    return {"mismatch/mean": float(np.abs(wide).mean()), "mismatch/max": float(np.abs(wide).max()), "mismatch/kl": kl}

"""The frozen policy that training is held near to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import NonFiniteUpdateError
from treepo.learn.loss_terms import terms_of
from treepo.learn.losses import Aggregation, Loss, Penalties, kl_estimates
from treepo.learn.memory import REMEDIES, MemoryBound, first_line, is_out_of_memory
from treepo.learn.packing import PackedTree, cut_within, longest_path, pack_apart, pack_within
from treepo.learn.scoring import Scorer, TreeBatch, join, nothing
from treepo.model.fsdp import full_tensor
from treepo.tree import Tree


class Reference(Protocol):
    """Lends the reference model while a with-block lasts."""

    def __call__(self) -> AbstractContextManager[PreTrainedModel]: ...


@dataclass(frozen=True)
class FrozenCopy:
    """A second model, kept beside the policy."""

    model: PreTrainedModel

    @classmethod
    def of(cls, model: PreTrainedModel) -> "FrozenCopy":
        """A copy of the model as it is now."""
        copy = deepcopy(model)
        copy.requires_grad_(False)
        return cls(copy)

    @contextmanager
    def __call__(self) -> Iterator[PreTrainedModel]:
        yield self.model


@dataclass(frozen=True)
class AdapterOff:
    """The policy itself without its adapter: nothing is kept twice."""

    model: PreTrainedModel

    @contextmanager
    def __call__(self) -> Iterator[PreTrainedModel]:
        self.model.disable_adapters()
        try:
            yield self.model
        finally:
            self.model.enable_adapters()


T = TypeVar("T")


@dataclass(frozen=True)
class Updater:
    """Packs trees, and turns a mini-batch of them into one step of the optimiser.

    max_tokens: most packed tokens of one forward. packing: whether what trajectories share is computed once.
    recompute_old_logprobs: whether the trainer's own log-probabilities, as they are before the first update of a step, take the
    place of the engine's. importance_cap: with recompute_old_logprobs, the bound of the weights by which tokens that the engine drew
    from another distribution are made up for; None for no weights. reference: needed where a penalty refers to it.
    bound: where memory runs out, work begins again with half as many tokens per forward, which the bound remembers; not
    where the model is sharded, since the other processes wait in the middle of theirs.
    processes: those that share the trees of an update, each of which may have none; all take part in all calls but
    `pack`.
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
    recompute_old_logprobs: bool = False
    importance_cap: float | None = None
    reference: Reference | None = None
    bound: MemoryBound = field(default_factory=MemoryBound)
    processes: DistContext = SINGLE_PROCESS

    @property
    def limit(self) -> int:
        """Most tokens of one forward, as far as is known by now."""
        return self.max_tokens if self.bound.max_tokens is None else min(self.max_tokens, self.bound.max_tokens)

    def limit_metrics(self, num_oom_before: int) -> dict[str, float]:
        """update/max_tokens_per_micro_batch: the limit; update/num_oom: how often memory ran out since it had so many times."""
        return {"update/max_tokens_per_micro_batch": self.limit, "update/num_oom": self.bound.num_oom - num_oom_before}

    def pack(self, tree: Tree, advantages: np.ndarray) -> list[PackedTree]:
        """One tree in as few parts as memory allows, or, where nothing is to be shared, in its trajectories."""
        return pack_within(tree, advantages, self.limit) if self.packing else pack_apart(tree, advantages)

    def prepare(self, trees: Sequence[PackedTree]) -> list[PackedTree]:
        """What has to be known of a step's trees before its first update changes the policy; those that turn out to be
        too large for memory come back in parts."""
        parts = list(trees)
        if self.recompute_old_logprobs:
            parts, scored = self.within_memory(parts, self.scorer.logprobs)
            parts = [replace(part, recomputed_logprobs=own) for part, own in zip(parts, scored, strict=True)]
        if self.reference is not None:
            with self.reference() as model:
                parts, scored = self.within_memory(parts, replace(self.scorer, model=model).logprobs)
            parts = [replace(part, ref_logprobs=own) for part, own in zip(parts, scored, strict=True)]
        return parts

    def update(self, trees: Sequence[PackedTree]) -> dict[str, float]:
        """One update on these trees; metrics are means over the response tokens of all their trajectories, and those of
        `mismatch_metrics`, which say how far the engine is from the policy where this is the first update of a step.

        Where memory runs out in a forward or backward pass, all of them are done again with fewer tokens each, before
        any weight has changed. Raises MemoryError, with what to change, if that does not help.
        """
        assert trees or self.processes.world_size > 1, "an update needs at least one tree"
        weighed = weigh(trees, self.aggregation, self.processes)
        parts, (totals, gaps) = self.within_memory(weighed, self._gradients)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = full_tensor(clip_grad_norm_(trained, self.max_grad_norm))
        if not torch.isfinite(norm):
            raise NonFiniteUpdateError("gradient norm", join(parts or [nothing()]))
        self._step()
        totals |= {"grad_norm": float(norm), "lr": float(self.schedule.get_last_lr()[0])}
        self.schedule.step()
        return totals | mismatch_metrics(gaps, self.processes)

    def _gradients(self, trees: Sequence[PackedTree], max_tokens: int) -> tuple[dict[str, float], np.ndarray]:
        """Fill in the gradients of all trained weights; (metrics, gap of each term as `loss_sum` says)."""
        (num_tokens,) = self.processes.all_reduce(
            np.array([sum(tree.num_response_tokens for tree in trees)], np.float64)
        )
        totals: dict[str, float] = {}
        gaps = [np.zeros(0)]
        self.optimizer.zero_grad(set_to_none=True)
        for indices in self.scorer.batches(trees, max_tokens):
            batch = join([trees[i] for i in indices] or [nothing()])
            loss, sums, gap = self.loss_sum(batch)
            if not indices:
                (0.0 * loss).backward()
                continue
            gaps.append(gap)
            # With others waiting for its gradients it goes on: their norm will not be finite, and all find out.
            if not torch.isfinite(loss) and self.processes.world_size == 1:
                raise NonFiniteUpdateError("loss", batch)
            loss.backward()
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value / num_tokens
            totals["loss"] = totals.get("loss", 0.0) + float(loss.detach())
        return added(self.processes.all_gather(totals)), np.concatenate(gaps)

    def within_memory(
        self, trees: Sequence[PackedTree], work: Callable[[Sequence[PackedTree], int], T]
    ) -> tuple[list[PackedTree], T]:
        """(parts, what `work` returns for them and the most tokens of a forward), begun again with half as many tokens
        whenever memory runs out; work: leaves nothing behind but gradients."""
        parts = list(trees)
        while True:
            if self.bound.max_tokens is not None:
                parts = [part for tree in parts for part in cut_within(tree, self.limit)]
            try:
                return parts, work(parts, self.limit)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            if self.processes.world_size > 1:
                raise MemoryError(
                    f"train.max_tokens_per_micro_batch: out of memory at {self.limit} tokens; with several processes a smaller "
                    f"one has to be given on resuming ({first_line(reason)})"
                )
            # Not while the error is handled: it keeps the tensors of the failed forward alive.
            self.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.bound.lower(self.limit, max(longest_path(part) for part in parts), reason)

    def _step(self) -> None:
        """The optimiser's own step, which cannot be begun again, and needs the same memory whatever a forward takes."""
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(
                f"optim: no memory for the optimiser's state; {REMEDIES} ({first_line(str(error))})"
            ) from error

    def loss_sum(self, batch: TreeBatch) -> tuple[Tensor, dict[str, float], np.ndarray]:
        """The loss of a batch with its weights; its metrics summed over the response tokens of all trajectories; and
        per term the policy's log-probability minus the engine's."""
        scores = self.scorer(batch, entropy_has_grad=self.penalties.entropy_coef != 0)
        terms = terms_of(batch.packed, scores.policy_logprobs, self.importance_cap)
        ref_logprobs = torch.from_numpy(batch.packed.ref_logprobs).to(scores.policy_logprobs)
        loss = self.loss(terms) + self.penalties(terms, ref_logprobs, scores.entropies)
        with torch.no_grad():
            sums = {
                "entropy": (terms.num_leaves * scores.entropies).sum(),
                "clip_fraction": self.loss.num_clipped(terms),
                # Of what was sampled, from the policy as it is now; k3 is never negative.
                "approx_kl": (
                    terms.num_leaves * kl_estimates(terms.sampled_logprobs, terms.policy_logprobs, "k3")
                ).sum(),
            }
            if self.reference is not None:
                estimates = kl_estimates(terms.policy_logprobs, ref_logprobs, "k3")
                sums["kl_reference"] = (terms.num_leaves * estimates).sum()
        gaps = scores.policy_logprobs.detach().cpu().numpy() - batch.packed.sampled_logprobs
        return loss, {name: float(value) for name, value in sums.items()}, gaps


def weigh(
    trees: Sequence[PackedTree], aggregation: Aggregation, processes: DistContext = SINGLE_PROCESS
) -> list[PackedTree]:
    """The trees of one update with the weight of each trajectory's tokens among those of all processes."""
    lens = processes.all_gather(np.concatenate([np.zeros(0), *(tree.lens for tree in trees)]))
    every = aggregation(np.concatenate(lens))
    weights = np.split(every, np.cumsum([len(own) for own in lens])[:-1])[processes.rank]
    ends = np.cumsum([len(tree.lens) for tree in trees], dtype=np.int64)
    return [replace(t, leaf_weights=weights[end - len(t.lens) : end]) for t, end in zip(trees, ends, strict=True)]


def added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sum of each figure over the processes that have it."""
    return {name: sum(part[name] for part in parts if name in part) for part in parts for name in part}


def mismatch_metrics(gaps: np.ndarray, processes: DistContext = SINGLE_PROCESS) -> dict[str, float]:
    """How far the distribution that an engine samples from is from the policy's, by their log-probabilities of what it
    sampled: mean and maximum of the distance, and an estimate of KL(engine | policy).

    gaps [S]: policy's minus engine's. The estimate is k3, the mean of exp(gap) - 1 - gap; see kl_estimates.
    """
    wide = gaps.astype(np.float64)
    with np.errstate(over="ignore"):
        kl = float((np.expm1(wide) - wide).sum())
    count, total, kl = processes.all_reduce(np.array([len(wide), np.abs(wide).sum(), kl])).tolist()
    largest = max(processes.all_gather(float(np.abs(wide).max(initial=0.0))))
    return {"mismatch/mean": total / count, "mismatch/max": largest, "mismatch/kl": kl / count}


def tree_entropies(trees: Sequence[Tree], updater: Updater) -> list[list[np.ndarray]]:
    """Per tree and node float32 [n], in nats: of softmax(logits / temperature) before each of its tokens; nan for the
    prompt, and for a node that leads to no leaf. One forward without gradients over what the trees do not share."""
    firsts = np.cumsum([0, *(len(tree.nodes) for tree in trees)])
    # Given as advantages, the numbers of nodes go wherever their terms go, whatever is merged, parted or cut.
    numbers = [first + np.arange(len(tree.nodes)) for tree, first in zip(trees, firsts, strict=False)]
    packed = [part for tree, own in zip(trees, numbers, strict=True) for part in updater.pack(tree, own)]
    found = [np.full(len(node.token_ids), np.nan, np.float32) for tree in trees for node in tree.nodes]
    parts, scored = updater.within_memory(packed, updater.scorer.entropies)
    for part, entropies in zip(parts, scored, strict=True):
        counts = part.leaf_ends - part.leaf_starts
        node_of_term = part.own_advantages[np.cumsum(counts) - counts].astype(int)
        # Terms rise with their predecessors, so those of one node stand in the order of its tokens.
        order = np.argsort(node_of_term, kind="stable")
        nodes, starts = np.unique(node_of_term[order], return_index=True)
        for node, own in zip(nodes.tolist(), np.split(entropies[order], starts[1:]), strict=True):
            found[node] = own.astype(np.float32)
    return [found[start:end] for start, end in pairwise(firsts.tolist())]

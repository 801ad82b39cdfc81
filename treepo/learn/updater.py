"""One optimizer step from packed trees, within memory, on one process or several."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from treepo.credit.base import Advantages
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.errors import MicroBatchMemoryError, NonFiniteUpdateError
from treepo.learn.balance import balance, imbalance
from treepo.learn.loss_inputs import LossInputs
from treepo.learn.losses import Aggregation, Loss, Penalties, kl_estimates
from treepo.learn.metrics import WatchedWeights, mismatch_metrics
from treepo.learn.packing import PackedTree, pack_in_parts, pack_trajectories, split_packed
from treepo.learn.scoring import Scorer, TreeBatch, collate, dummy_tree
from treepo.model.fsdp import full_tensor, to_local
from treepo.model.lora import with_dropout, without_adapter
from treepo.model.passes import run_in_step
from treepo.tree import Tree
from treepo.utils.foreign_errors import first_line, is_out_of_memory
from treepo.utils.signals import PhaseCallback, no_progress

T = TypeVar("T")

REMEDIES = (
    "shorten responses (tree.depth, tree.segment_len) or prompts (data.max_prompt_len), or set "
    "train.gradient_checkpointing, train.autocast or lora.rank"
)


@dataclass
class MemoryLimit:
    """What is known since memory ran out: the most tokens of a forward, None before; and how often it did."""

    max_tokens: int | None = None
    num_oom: int = 0

    def lower(self, tried: int, longest: int, reason: str) -> None:
        """Set the limit to half of what was tried, but at least to the longest trajectory, which cannot be split.

        reason: what the allocator said. Raises MicroBatchMemoryError, with the settings to change, if that was tried
        already.
        """
        self.num_oom += 1
        if tried <= longest:
            raise MicroBatchMemoryError(
                f"train.max_tokens_per_micro_batch: out of memory at {tried} tokens, and the longest trajectory has "
                f"{longest}; {REMEDIES} ({reason})"
            )
        self.max_tokens = max(tried // 2, longest)


@dataclass(frozen=True, kw_only=True)
class Updater:
    """Packs trees, and turns a mini-batch of them into one step of the optimizer.

    max_tokens_per_micro_batch: most packed tokens of one forward. packing: whether what trajectories share is
    computed once. recompute_old_logprobs: whether ratios refer to the trainer's own log-probabilities from before
    the first update of a step, not to the engine's. mask_truncated_completions: whether trajectories that a limit
    cut off add nothing to the loss. num_updates: those of the whole run, which penalties that change need to know.
    importance_cap: with recompute_old_logprobs, the bound of the weights that correct for tokens that the engine
    drew from another distribution; None for no weights. reference: the frozen policy that training is held near to,
    needed where a penalty refers to it; the scorer's own model stands for that model without its adapter.
    memory_limit: where memory runs out, in any of the processes, all begin again with half as many tokens per
    forward, which they remember. processes: those that share the trees of an update, each of which may have none;
    all take part in all calls but `pack`.
    """

    scorer: Scorer
    loss: Loss
    aggregation: Aggregation
    penalties: Penalties
    optimizer: Optimizer
    schedule: LambdaLR
    max_tokens_per_micro_batch: int
    max_grad_norm: float
    packing: bool = True
    recompute_old_logprobs: bool = False
    importance_cap: float | None = None
    mask_truncated_completions: bool = False
    num_updates: int | None = None
    reference: PreTrainedModel | None = None
    memory_limit: MemoryLimit = field(default_factory=MemoryLimit)
    processes: DistContext = SINGLE_PROCESS

    @property
    def max_tokens(self) -> int:
        """Most tokens of one forward: the setting, or fewer since memory ran out."""
        lowered = self.memory_limit.max_tokens
        return self.max_tokens_per_micro_batch if lowered is None else min(self.max_tokens_per_micro_batch, lowered)

    @property
    def current_penalties(self) -> Penalties:
        """The penalties with the coefficients of the next update."""
        if not self.penalties.scheduled:
            return self.penalties
        assert self.num_updates is not None, "penalties that change know the number of updates"
        return self.penalties.after(self.schedule.last_epoch, self.num_updates)

    def pack(self, tree: Tree, advantages: Advantages | np.ndarray) -> list[PackedTree]:
        """One tree in as few parts as memory allows, or, where nothing is to be shared, in its trajectories."""
        return pack_in_parts(tree, advantages, self.max_tokens) if self.packing else pack_trajectories(tree, advantages)

    def balance(self, batches: Sequence[list[PackedTree]]) -> tuple[list[list[PackedTree]], dict[str, float]]:
        """(the trees of each update, moved between processes so that all forward about as many tokens; metrics)."""
        if self.processes.world_size == 1:
            return list(batches), {}
        dealt = [balance(batch, [tree.num_tokens for tree in batch], self.processes) for batch in batches]
        return [own.items for own in dealt], {
            "update/imbalance_grown": imbalance([own.before for own in dealt]),
            "update/imbalance": imbalance([own.after for own in dealt]),
        }

    def update_all(
        self, batches: Sequence[list[PackedTree]], num_iterations: int, progress: PhaseCallback = no_progress
    ) -> list[dict[str, float]]:
        """Make the updates of a step, `num_iterations` times one per batch; returns the metrics of each."""
        prepared = [self.prepare(batch) for batch in batches]
        updates: list[dict[str, float]] = []
        for batch in prepared * num_iterations:
            progress("updating", len(updates), len(prepared) * num_iterations)
            updates.append(self.update(batch))
        self.check_weights()
        return updates

    def prepare(self, trees: Sequence[PackedTree]) -> list[PackedTree]:
        """Add the log-probabilities that have to be known before a step's first update changes the policy.

        Trees that are too large for memory come back in parts.
        """
        parts = list(trees)
        if self.recompute_old_logprobs:
            parts, scored = self._within_memory(parts, self.scorer.logprobs)
            parts = [replace(part, recomputed_logprobs=own) for part, own in zip(parts, scored, strict=True)]
        if (model := self.reference) is not None:
            with without_adapter(model) if model is self.scorer.model else nullcontext():
                parts, scored = self._within_memory(parts, replace(self.scorer, model=model).logprobs)
            parts = [replace(part, ref_logprobs=own) for part, own in zip(parts, scored, strict=True)]
        return parts

    def update(self, trees: Sequence[PackedTree]) -> dict[str, float]:
        """Make one update; returns metrics by their full names.

        Those of the loss are means over the response tokens of all trajectories. mismatch/* (`mismatch_metrics`) is how
        far the engine is from the policy where this is the first update of a step. Where memory runs out in a forward
        or backward pass, all of them are done again with fewer tokens each, before any weight has changed. Raises
        MicroBatchMemoryError, with the settings to change, if that does not help, MemoryError if there is no room for
        the optimizer's own step, and NonFiniteUpdateError.
        """
        assert trees or self.processes.world_size > 1, "an update needs at least one tree"
        weighted = with_leaf_weights(trees, self.aggregation, self.processes, self.mask_truncated_completions)
        parts, (metrics, gaps) = self._within_memory(weighted, self._compute_gradients)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = full_tensor(clip_grad_norm_(trained, self.max_grad_norm))
        if not torch.isfinite(norm):
            raise NonFiniteUpdateError("gradient norm", collate(parts or [dummy_tree()]))
        watched = WatchedWeights.of(trained)
        self._step()
        metrics |= watched.metrics(self.processes)
        metrics |= {"update/grad_norm": float(norm), "update/lr": float(self.schedule.get_last_lr()[0])}
        metrics |= {f"update/{name}": getattr(self.current_penalties, name) for name in self.penalties.scheduled}
        self.schedule.step()
        return metrics | mismatch_metrics(gaps, self.processes)

    def check_weights(self) -> None:
        """Raise FloatingPointError, with the settings to change, for trained weights that are not finite, or have
        squares that are not.

        After the last update nothing else would notice: the next step's logits do.
        """
        with self.processes.synced_errors():
            for group in self.optimizer.param_groups:
                # Squares that overflow do so in a model's norms, too.
                if not all(torch.isfinite(to_local(p.detach()).norm()) for p in group["params"]):
                    message = (
                        "weights are not finite or too large after the update: see optim.lr and optim.weight_decay"
                    )
                    raise FloatingPointError(message)

    def tree_entropies(self, trees: Sequence[Tree]) -> list[list[np.ndarray]]:
        """Per tree and node float32 [n], in nats: the entropy of softmax(logits / temperature) before each token.

        nan for the prompt, and for a node that leads to no leaf. One forward without gradients over what the trees do
        not share.
        """
        lengths = [len(node.token_ids) for tree in trees for node in tree.nodes]
        starts, first_nodes = np.cumsum([0, *lengths]), np.cumsum([0, *(len(tree.nodes) for tree in trees)])
        # Nodes are numbered through all trees, since memory may split a tree into any number of parts.
        packed = [
            replace(part, target_nodes=part.target_nodes + first)
            for tree, first in zip(trees, first_nodes, strict=False)
            for part in self.pack(tree, np.zeros(len(tree.leaves())))
        ]
        values = np.full(starts[-1], np.nan, np.float32)
        parts, scored = self._within_memory(packed, self.scorer.entropies)
        for part, entropies in zip(parts, scored, strict=True):
            values[starts[part.target_nodes] + part.target_offsets] = entropies
        by_node = np.split(values, starts[1:-1])
        return [by_node[start:end] for start, end in pairwise(first_nodes.tolist())]

    def loss_sum(self, batch: TreeBatch) -> tuple[Tensor, dict[str, float], np.ndarray]:
        """The loss of a batch with its weights; its metrics summed over the response tokens of all trajectories; and
        per target the policy's log-probability minus the engine's."""
        penalties = self.current_penalties
        scores = self.scorer(batch, entropy_has_grad=penalties.entropy_coef != 0)
        inputs = LossInputs.from_packed(batch.packed, scores.policy_logprobs, self.importance_cap)
        ref_logprobs = torch.from_numpy(batch.packed.ref_logprobs).to(scores.policy_logprobs)
        loss = self.loss(inputs) + penalties(inputs, ref_logprobs, scores.entropies)
        with torch.no_grad():
            # The samples are of the old policy, so this is KL(old | policy); k3 is never negative.
            approx_kl = kl_estimates(inputs.old_logprobs, inputs.policy_logprobs, "k3")
            sums = {
                "update/entropy": (inputs.num_leaves * scores.entropies).sum(),
                "clip_ratio/region_mean": self.loss.num_clipped(inputs),
                "update/approx_kl": (inputs.num_leaves * approx_kl).sum(),
            }
            if self.reference is not None:
                estimates = kl_estimates(inputs.policy_logprobs, ref_logprobs, "k3")
                sums["update/kl_reference"] = (inputs.num_leaves * estimates).sum()
        gaps = scores.policy_logprobs.detach().cpu().numpy() - batch.packed.sampled_logprobs
        return loss, {name: float(value) for name, value in sums.items()}, gaps

    def _compute_gradients(self, trees: Sequence[PackedTree], max_tokens: int) -> tuple[dict[str, float], np.ndarray]:
        """Fill in the gradients of all trained weights; returns (metrics, gap of each target as in `loss_sum`)."""
        num_own = sum(float(tree.lens[tree.leaf_weights != 0].sum()) for tree in trees)
        num_tokens = max(1.0, float(self.processes.all_reduce(np.array([num_own], np.float64))[0]))
        totals: dict[str, float] = {}
        gaps = [np.zeros(0)]
        self.optimizer.zero_grad(set_to_none=True)

        def make_pass(indices: list[int]) -> None:
            batch = collate([trees[i] for i in indices] or [dummy_tree()])
            loss, sums, gap = self.loss_sum(batch)
            if not indices:
                (0.0 * loss).backward()
                return
            gaps.append(gap)
            # Where other processes wait for the gradients this one makes them: their norm is not finite, which all see.
            if not torch.isfinite(loss) and self.processes.world_size == 1:
                raise NonFiniteUpdateError("loss", batch)
            loss.backward()
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value / num_tokens
            totals["update/loss"] = totals.get("update/loss", 0.0) + float(loss.detach())

        with with_dropout(self.scorer.model):
            run_in_step(self.scorer.model, self.processes, self.scorer.batches(trees, max_tokens), make_pass)
        # A process without trees has no metrics of its own.
        shares = self.processes.all_gather(totals)
        metrics = {name: sum(own[name] for own in shares if name in own) for share in shares for name in share}
        return metrics, np.concatenate(gaps)

    def _within_memory(
        self, trees: Sequence[PackedTree], work: Callable[[Sequence[PackedTree], int], T]
    ) -> tuple[list[PackedTree], T]:
        """(parts, what `work` returns for them and the most tokens of a forward), begun again with half as many tokens
        whenever memory runs out. work: leaves nothing behind but gradients."""
        parts = list(trees)
        while True:
            if self.memory_limit.max_tokens is not None:
                parts = [part for tree in parts for part in split_packed(tree, self.max_tokens)]
            try:
                return parts, work(parts, self.max_tokens)
            except MicroBatchMemoryError as error:
                reason = str(error)
            self.optimizer.zero_grad(set_to_none=True)
            longest = max(self.processes.all_gather(max((part.max_trajectory_len for part in parts), default=0)))
            self.memory_limit.lower(self.max_tokens, longest, reason)

    def _step(self) -> None:
        """Make the optimizer's own step, which cannot be begun again, and needs as much memory for any forward."""
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(
                f"optim: no memory for the optimizer's state; {REMEDIES} ({first_line(error)})"
            ) from error


def with_leaf_weights(
    trees: Sequence[PackedTree],
    aggregation: Aggregation,
    processes: DistContext = SINGLE_PROCESS,
    mask_truncated_completions: bool = False,
) -> list[PackedTree]:
    """The trees of one update with the weight of each trajectory's tokens among those of all processes.

    mask_truncated_completions: whether those that a limit cut off weigh nothing. They count as trajectories without
    tokens, as in TRL.
    """
    own = [tree.lens * ~tree.is_truncated if mask_truncated_completions else tree.lens for tree in trees]
    lens = processes.all_gather(np.concatenate([np.zeros(0), *own]))
    every = np.concatenate(lens)
    # An aggregation of the user's own may divide by lengths that are masked.
    weights = np.where(every > 0, aggregation(every), 0.0)
    weights = np.split(weights, np.cumsum([len(part) for part in lens])[:-1])[processes.rank]
    ends = np.cumsum([len(tree.lens) for tree in trees], dtype=np.int64)
    return [replace(t, leaf_weights=weights[end - len(t.lens) : end]) for t, end in zip(trees, ends, strict=True)]


def mini_batches(
    trees: Sequence[list[PackedTree]], places: Sequence[int], *, num_trees: int, num_batches: int
) -> list[list[PackedTree]]:
    """The parts of the trees of each update: at most `num_batches`, of as many trees each as can be.

    places: where each of this process's trees stands among the `num_trees` of all; it may have none in an update.
    """
    bounds = np.linspace(0, num_trees, min(num_batches, num_trees) + 1).astype(int)
    return [
        [part for place, tree in zip(places, trees, strict=True) if start <= place < end for part in tree]
        for start, end in pairwise(bounds)
    ]

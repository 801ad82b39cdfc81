"""Metrics of a training step: its trees, groups, advantages, rewards and memory."""

import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from treepo.credit.base import Advantages
from treepo.credit.leaf_weights import weighted_mean
from treepo.data.problem import Outcome
from treepo.distributed import SINGLE_PROCESS, DistContext, merge_shards
from treepo.grow.builder import GrowthRules
from treepo.grow.shape import TreeShape
from treepo.learn.advantages import has_signal, rewarded_part
from treepo.learn.packing import num_distinct
from treepo.learn.turn_metrics import turn_metrics
from treepo.model.fsdp import to_local
from treepo.tree import ROOT, TURN_STOPS, StopReason, Tree
from treepo.verify.rewards import ScoredLeaves, component_metrics, verdict_metrics


def depths(tree: Tree, shape: TreeShape) -> np.ndarray:
    """int64 [N]: segments from the prompt to the end of each node. shape: that of the rules, not yet aligned."""
    own = shape.for_prompt(len(tree.prompt_ids), len(tree.children()[ROOT]))
    return np.array([own.num_segments(tree.response_len(node)) for node in range(len(tree.nodes))])


def group_metrics(trees: Sequence[Tree], rewards: Sequence[np.ndarray], shape: TreeShape) -> dict[str, float]:
    """The groups of all trees, by depth k.

    groups/depth_k/num: groups per tree. frac_reward_zero_std: the share of them whose rewards all agree. reward_mean,
    reward_std: the mean over groups of the mean of their rewards, and of their std (over leaves, not unbiased).
    """
    by_depth: dict[int, list[np.ndarray]] = defaultdict(list)
    for tree, own in zip(trees, rewards, strict=True):
        depth = depths(tree, shape)
        groups = {(int(depth[node]), tuple(leaves)) for node, leaves in tree.groups().items() if len(leaves) > 1}
        for k, leaves in groups:
            by_depth[k].append(own[list(leaves)])
    metrics: dict[str, float] = {}
    for k, groups in sorted(by_depth.items()):
        name = f"groups/depth_{k}"
        metrics[f"{name}/num"] = len(groups) / len(trees)
        metrics[f"{name}/frac_reward_zero_std"] = float(np.mean([group.min() == group.max() for group in groups]))
        metrics[f"{name}/reward_mean"] = float(np.mean([group.mean() for group in groups]))
        metrics[f"{name}/reward_std"] = float(np.mean([group.std() for group in groups]))
    return metrics


def advantage_metrics(
    trees: Sequence[Tree], advantages: Sequence[Advantages | None], shape: TreeShape
) -> dict[str, float]:
    """How far advantages spread, over the trees that have some: std around the mean of all that are of one depth.

    advantages/depth_k/std: one per leaf: over the leaves whose last fork, the deepest node above with at least two
    leaves below, is of depth k; a tree of one leaf has none. One per node: over the nodes of depth k that lead to a
    leaf. advantages/within: the share of the variance of all these that is within leaves of the same last fork, or
    within nodes of the same parent; the rest is between them. 0 where there is no variance.
    """
    by_depth: dict[int, list[float]] = defaultdict(list)
    by_fork: dict[tuple[int, int], list[float]] = defaultdict(list)
    for i, (tree, own) in enumerate(zip(trees, advantages, strict=True)):
        if own is None:
            continue
        depth = depths(tree, shape)
        for node, fork, advantage in _places(tree, own):
            by_depth[int(depth[node])].append(advantage)
            by_fork[i, fork].append(advantage)
    metrics = {f"advantages/depth_{k}/std": float(np.std(values)) for k, values in sorted(by_depth.items())}
    if by_fork:
        total = _squares(list(chain.from_iterable(by_fork.values())))
        within = sum(map(_squares, by_fork.values()))
        metrics["advantages/within"] = min(within / total, 1.0) if total > 0 else 0.0
    return metrics


def _places(tree: Tree, advantages: Advantages) -> Iterator[tuple[int, int, float]]:
    """Per advantage (the node whose depth it counts for, the node it is compared below, its value).

    Of a leaf both are its last fork. Of a node below the root that leads to a leaf: itself, its parent, its mean.
    """
    groups = tree.groups()
    if advantages.per_node:
        values = advantages.node_means(tree)
        sampled = [node for node in groups if node != ROOT and not tree.nodes[node].observed]
        yield from ((node, tree.nodes[node].parent, float(values[node])) for node in sampled)
        return
    for leaf, advantage in zip(tree.leaves(), advantages.values.tolist(), strict=True):
        forks = [node for node in tree.path(leaf) if len(groups[node]) > 1]
        if forks:
            yield forks[-1], forks[-1], advantage


def _squares(values: Sequence[float]) -> float:
    """The sum of squares around the mean; exactly 0 where all are equal."""
    return float(np.var(values) * len(values)) if min(values) < max(values) else 0.0


def tree_metrics(trees: Sequence[Tree], shape: TreeShape) -> dict[str, float]:
    """Tokens, forks, fallbacks, lengths, entropy and ends of the trees of one step.

    tokens/decoded: what the engine decoded; tokens/distinct: with siblings that begin alike merged; tokens/total: the
    sum over trajectories, which sequential sampling would have decoded; tokens/sharing: total over distinct.
    forks/depth_k: children beyond the first per tree, of nodes k segments below the prompt. entropy: mean of
    -log p(token) over what was decoded, an unbiased estimate of the entropy per token of the distribution sampled from.
    completions/clipped_ratio: leaves that ended at a limit, stop/length + stop/depth.
    """
    lengths = np.concatenate([tree.response_lens() for tree in trees])
    logprobs = np.concatenate(
        [tree.logprobs(i) for tree in trees for i, node in enumerate(tree.nodes) if i != ROOT and not node.observed]
    )
    stops = Counter(tree.nodes[leaf].stop for tree in trees for leaf in tree.leaves())
    num_distinct_tokens = sum(num_distinct(tree) for tree in trees)
    reasons = [reason for reason in StopReason if reason not in TURN_STOPS or any(stops[own] for own in TURN_STOPS)]
    return {
        "tokens/decoded": sum(tree.num_decoded() for tree in trees),
        "tokens/distinct": num_distinct_tokens,
        "tokens/total": int(lengths.sum()),
        "tokens/sharing": float(lengths.sum() / num_distinct_tokens),
        "tokens/dropped": sum(tree.num_dropped for tree in trees),
        "leaves/mean": len(lengths) / len(trees),
        "fallbacks/mean": sum(tree.num_fallbacks for tree in trees) / len(trees),
        "completions/length/mean": float(lengths.mean()),
        "completions/length/min": int(lengths.min()),
        "completions/length/max": int(lengths.max()),
        "entropy": -float(logprobs.mean(dtype=np.float64)),
        **{f"forks/depth_{depth}": num / len(trees) for depth, num in sorted(forks_by_depth(trees, shape).items())},
        **{f"stop/{reason}": stops[reason] / len(lengths) for reason in reasons},
        "completions/clipped_ratio": (stops[StopReason.LENGTH] + stops[StopReason.DEPTH]) / len(lengths),
    }


def forks_by_depth(trees: Sequence[Tree], shape: TreeShape) -> Counter[int]:
    """For each depth in segments, children beyond the first of the nodes that end there."""
    forks = Counter[int]()
    for tree in trees:
        for depth, children in zip(depths(tree, shape).tolist(), tree.children(), strict=True):
            if len(children) > 1:
                forks[depth] += len(children) - 1
    return forks


def reward_metrics(trees: Sequence[Tree], rewards: Sequence[np.ndarray]) -> dict[str, float]:
    """reward/mean: over all leaves; reward/unbiased: over the trees, each leaf with its weight (`leaf_weights`), what
    sequential sampling of these problems would have on average."""
    if not trees:
        return {}
    unbiased = [weighted_mean(tree, r) for tree, r in zip(trees, rewards, strict=True)]
    return {"reward/mean": float(np.concatenate(rewards).mean()), "reward/unbiased": float(np.mean(unbiased))}


def problem_metrics(
    rewards: Sequence[np.ndarray], correct: Sequence[np.ndarray], num_rounds: int, num_trained: int
) -> dict[str, float]:
    """Counts of the problems of one step: rounds, grown, trained on, without a signal.

    rewards: per tree the rewards that are trained on; correct: the task's verdicts, if there are any. problems/solved,
    problems/failed: all leaves are right, or all wrong, whether or not their rewards differ. problems/unused: they
    carry a signal, but enough others did.
    """
    num_signals = sum(map(has_signal, rewards))
    return {
        "problems/rounds": num_rounds,
        "problems/grown": len(rewards),
        "problems/solved": sum(float(c.min()) > 0 for c in correct),
        "problems/failed": sum(float(c.max()) <= 0 for c in correct),
        "problems/trained": num_trained,
        "problems/unused": int(num_signals) - num_trained,
    }


def packing_metrics(trees: Sequence[Tree], num_forwarded: Sequence[int]) -> dict[str, float]:
    """tokens/forwarded: tokens that an epoch of updates forwards, prompts and observed ones too; tokens/unpacked: the
    same with every trajectory on its own. num_forwarded: of each tree, 0 for one that was not trained on."""
    trained = [tree for tree, num in zip(trees, num_forwarded, strict=True) if num]
    return {
        "tokens/forwarded": sum(num_forwarded),
        "tokens/unpacked": sum(len(tree.ids(leaf)) for tree in trained for leaf in tree.leaves()),
    }


@dataclass(frozen=True, eq=False)
class StepShard:
    """The trees that a process grew in a step, in the order of their problems.

    scored, advantages: per tree the rewards of its leaves, and its advantages, None if it was not trained on.
    num_forwarded: per tree the tokens that an epoch of updates forwards of it. entropies: see `Updater.tree_entropies`;
    none if they were not asked for.
    """

    trees: list[Tree]
    scored: list[ScoredLeaves]
    advantages: list[Advantages | None]
    num_forwarded: list[int]
    entropies: list[list[np.ndarray]]

    @classmethod
    def merge(cls, shards: Sequence["StepShard"]) -> "StepShard":
        """The shards of all processes as one, in the order in which problems were dealt out."""
        return cls(**{f.name: merge_shards([getattr(shard, f.name) for shard in shards]) for f in fields(cls)})

    @property
    def rewards(self) -> list[np.ndarray]:
        """One per leaf of each tree."""
        return [scored.rewards for scored in self.scored]

    def metrics(self, rules: GrowthRules, num_rounds: int) -> dict[str, float]:
        """All metrics of these trees. rules: those by which they grew."""
        shape = rules.shape
        trees, correct = self.trees, [scored.correct for scored in self.scored]
        parts = [rewarded_part(tree, own) for tree, own in zip(trees, self.rewards, strict=True)]
        judged = [(tree, own) for tree, own in parts if len(own)]
        judged_trees, rewards = [tree for tree, _ in judged], [own for _, own in judged]
        num_trained = sum(a is not None for a in self.advantages)
        is_verified = any(v.outcome is not Outcome.UNVERIFIED for scored in self.scored for v in scored.verdicts)
        return (
            reward_metrics(judged_trees, rewards)
            | ({"accuracy": float(np.concatenate(correct).mean())} if is_verified else {})
            | component_metrics(self.scored)
            | (verdict_metrics(self.scored) if is_verified else {})
            | problem_metrics(self.rewards, correct if is_verified else [], num_rounds, num_trained)
            | tree_metrics(trees, shape)
            | group_metrics(judged_trees, rewards, shape)
            | advantage_metrics(trees, self.advantages, shape)
            | packing_metrics(trees, self.num_forwarded)
            | (turn_metrics(trees) if rules.turns is not None else {})
        )


def mismatch_metrics(gaps: np.ndarray, processes: DistContext = SINGLE_PROCESS) -> dict[str, float]:
    """How far the engine's distribution is from the policy's, by their log-probabilities of what the engine sampled:
    mean and maximum of the distance, and an estimate of KL(engine | policy).

    gaps [S]: policy's minus engine's. The estimate is k3, the mean of exp(gap) - 1 - gap; see `losses.kl_estimates`.
    """
    wide = gaps.astype(np.float64)
    with np.errstate(over="ignore"):
        kl = float((np.expm1(wide) - wide).sum())
    count, total, kl = processes.all_reduce(np.array([len(wide), np.abs(wide).sum(), kl])).tolist()
    largest = max_metrics({"mismatch/max": float(np.abs(wide).max(initial=0.0))}, processes)
    return {"mismatch/mean": total / count, **largest, "mismatch/kl": kl / count}


MAX_WATCHED = 4096
"""Weights of one tensor that are watched."""

NO_GRADIENT = 1e-12
"""Gradients up to this move no weight: Adam divides them by at least its epsilon, 1e-8."""


@dataclass(frozen=True)
class WatchedWeights:
    """Some of the trained weights, before an update.

    An update that is small beside its weight changes nothing, soonest in types narrower than float32; nor does one
    without a gradient. tensors: per tensor a view of every n-th weight, a copy of it, and where it has a gradient.
    """

    tensors: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, trained: Sequence[Tensor]) -> "WatchedWeights":
        """Watch these weights, whose gradients are clipped."""
        found = []
        for weight in trained:
            own = to_local(weight.detach())
            if weight.grad is None or not own.is_contiguous():
                continue
            step = max(1, own.numel() // MAX_WATCHED)
            view, grad = own.view(-1)[::step], to_local(weight.grad).reshape(-1)[::step]
            found.append((view, view.clone(), grad.abs() > NO_GRADIENT))
        return cls(found)

    def metrics(self, processes: DistContext = SINGLE_PROCESS) -> dict[str, float]:
        """update/frac_unchanged, after the update: the share of those with a gradient that kept their value; 0 where
        none has a gradient. update/frac_no_gradient: the share without one. Nothing where none is watched."""
        counts = [(((now == before)[moved]).sum(), moved.sum(), moved.numel()) for now, before, moved in self.tensors]
        own = np.array([list(map(float, count)) for count in counts]).reshape(-1, 3).sum(0)
        same, moved, every = processes.all_reduce(own).tolist()
        if not every:
            return {}
        return {
            "update/frac_unchanged": same / moved if moved else 0.0,
            "update/frac_no_gradient": 1 - moved / every,
        }


def mean_update_metrics(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the updates of a step, and mismatch/* of the first one, before which no weight had
    changed. Empty without updates."""
    if not updates:
        return {}
    means = {name: float(np.mean([update[name] for update in updates])) for name in updates[0]}
    return means | {name: value for name, value in updates[0].items() if name.startswith("mismatch/")}


def max_metrics(own: dict[str, float], processes: DistContext) -> dict[str, float]:
    """The largest value of each metric over all processes."""
    found = processes.all_gather(own)
    return {name: max(metrics[name] for metrics in found) for name in own}


def reset_peak(device: torch.device) -> None:
    """Measure `peak_bytes` from now on; on the CPU it stays the peak of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most bytes taken at a time: by tensors on a GPU since `reset_peak`, else by the resident process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_metrics(model: PreTrainedModel, optimizer: Optimizer, engine_cache: int | None = None) -> dict[str, float]:
    """memory/*, in bytes on this process: the peak, what weights, gradients and the optimizer's state take, and
    engine_cache, the engine's keys and values, if it is known."""
    weights = list(model.parameters())
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    tensors = {"weights": weights, "gradients": [p.grad for p in weights if p.grad is not None], "optimizer": state}
    sizes = {f"memory/{name}": sum(to_local(tensor).nbytes for tensor in own) for name, own in tensors.items()}
    cache = {} if engine_cache is None else {"memory/engine_cache": engine_cache}
    return {"memory/peak_bytes": peak_bytes(model.device), **sizes, **cache}

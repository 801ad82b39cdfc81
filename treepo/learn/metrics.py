"""Metrics of a training step: its trees, groups, advantages and rewards."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from treepo.credit.leaf_weights import weighted_mean
from treepo.distributed import DistContext, merge_shards
from treepo.engine.base import EngineCounters
from treepo.grow.shape import TreeShape
from treepo.learn.packing import num_distinct
from treepo.tree import ROOT, StopReason, Tree
from treepo.verify.scoring import ScoredLeaves, component_metrics, verdict_metrics


def depths(tree: Tree, shape: TreeShape) -> np.ndarray:
    """int64 [N]: segments from the prompt to the end of each node. shape: that of the rules, not yet aligned."""
    children = tree.children()
    own = shape.for_prompt(len(tree.prompt_ids), len(children[ROOT]))
    lengths = np.zeros(len(tree.nodes), np.int64)
    for node in tree.top_down():
        for child in children[node]:
            lengths[child] = lengths[node] + len(tree.nodes[child].token_ids)
    return np.array([own.num_segments(length) for length in lengths.tolist()])


def group_metrics(trees: Sequence[Tree], rewards: Sequence[np.ndarray], shape: TreeShape) -> dict[str, float]:
    """The groups of all trees, by depth k.

    groups/depth_k/num: how many per tree. no_signal: the share of them whose rewards all agree. reward_mean,
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
    trees: Sequence[Tree], advantages: Sequence[np.ndarray | None], shape: TreeShape
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
        for node, fork, advantage in _node_places(tree, own) if tree.is_per_node(own) else _leaf_places(tree, own):
            by_depth[int(depth[node])].append(advantage)
            by_fork[i, fork].append(advantage)
    metrics = {f"advantages/depth_{k}/std": float(np.std(values)) for k, values in sorted(by_depth.items())}
    if by_fork:
        total = _squares([value for values in by_fork.values() for value in values])
        within = sum(_squares(values) for values in by_fork.values())
        metrics["advantages/within"] = min(within / total, 1.0) if total > 0 else 0.0
    return metrics


def _leaf_places(tree: Tree, advantages: np.ndarray) -> Iterable[tuple[int, int, float]]:
    """(last fork, last fork, advantage) of each leaf that has one."""
    groups = tree.groups()
    for leaf, advantage in zip(tree.leaves(), advantages.tolist(), strict=True):
        forks = [node for node in tree.path(leaf) if len(groups[node]) > 1]
        if forks:
            yield forks[-1], forks[-1], advantage


def _node_places(tree: Tree, advantages: np.ndarray) -> Iterable[tuple[int, int, float]]:
    """(node, its parent, mean advantage) of each node below the root that leads to a leaf."""
    values = tree.per_node(advantages)
    return [(node, tree.nodes[node].parent, float(values[node])) for node in tree.groups() if node != ROOT]


def _squares(values: Sequence[float]) -> float:
    """The sum of squares around the mean; exactly 0 where all are equal."""
    return float(np.var(values) * len(values)) if min(values) < max(values) else 0.0


def lengths_of(tree: Tree) -> np.ndarray:
    """int64, response tokens per leaf."""
    return np.array([tree.response_len(leaf) for leaf in tree.leaves()])


def tree_metrics(trees: Sequence[Tree], shape: TreeShape) -> dict[str, float]:
    """Tokens, forks, fallbacks, lengths, entropy and ends of the trees of one step.

    tokens/decoded: what the engine decoded; tokens/distinct: with siblings that begin alike merged; tokens/total: the
    sum over trajectories, which sequential sampling would have decoded; tokens/sharing: total over distinct.
    forks/depth_k: children beyond the first per tree, of nodes k segments below the prompt. entropy: mean of
    -log p(token) over what was decoded, an unbiased estimate of the entropy per token of the distribution sampled from.
    """
    lengths = np.concatenate([lengths_of(tree) for tree in trees])
    logprobs = np.concatenate([tree.logprobs(i) for tree in trees for i in range(1, len(tree.nodes))])
    stops = Counter(tree.nodes[leaf].stop for tree in trees for leaf in tree.leaves())
    num_distinct_tokens = sum(num_distinct(tree) for tree in trees)
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
        **{f"stop/{reason}": stops[reason] / len(lengths) for reason in StopReason},
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
    unbiased = [weighted_mean(tree, r) for tree, r in zip(trees, rewards, strict=True)]
    return {"reward/mean": float(np.concatenate(rewards).mean()), "reward/unbiased": float(np.mean(unbiased))}


def problem_metrics(
    rewards: Sequence[np.ndarray], correct: Sequence[np.ndarray], num_rounds: int, num_trained: int
) -> dict[str, float]:
    """What became of the problems of one step: grown in how many rounds, trained on, or without a signal.

    rewards: what is trained on; correct: what the task says. problems/solved, problems/failed: all leaves are right, or
    all wrong, whether or not their rewards differ. problems/unused: they carry a signal, but enough others did.
    """
    num_signals = sum(r.min() < r.max() for r in rewards)
    return {
        "problems/rounds": num_rounds,
        "problems/grown": len(rewards),
        "problems/solved": sum(float(c.min()) > 0 for c in correct),
        "problems/failed": sum(float(c.max()) <= 0 for c in correct),
        "problems/trained": num_trained,
        "problems/unused": int(num_signals) - num_trained,
    }


def packing_metrics(trees: Sequence[Tree], num_forwarded: Sequence[int]) -> dict[str, float]:
    """tokens/forwarded: prompt and response tokens that an epoch of updates forwards; tokens/unpacked: the same with
    every trajectory on its own. num_forwarded: of each tree, 0 for one that was not trained on."""
    trained = [tree for tree, num in zip(trees, num_forwarded, strict=True) if num]
    return {
        "tokens/forwarded": sum(num_forwarded),
        "tokens/unpacked": sum(int(lengths_of(t).sum()) + len(t.leaves()) * len(t.prompt_ids) for t in trained),
    }


@dataclass(frozen=True, eq=False)
class Share:
    """The trees that a process grew in a step, in the order of their problems; of each what its leaves got, its
    advantages, None if it was not trained on, and how many tokens an epoch of updates forwards of it. entropies: see
    `tree_entropies`; none if they were not asked for."""

    trees: list[Tree]
    verified: list[ScoredLeaves]
    advantages: list[np.ndarray | None]
    num_forwarded: list[int]
    entropies: list[list[np.ndarray]]

    @property
    def rewards(self) -> list[np.ndarray]:
        """One per leaf of each tree."""
        return [v.rewards for v in self.verified]

    def metrics(self, shape: TreeShape, num_rounds: int) -> dict[str, float]:
        """All metrics of these trees."""
        trees, rewards, correct = self.trees, self.rewards, [v.correct for v in self.verified]
        return (
            reward_metrics(trees, rewards)
            | {"accuracy": float(np.concatenate(correct).mean())}
            | component_metrics(self.verified)
            | verdict_metrics(self.verified)
            | problem_metrics(rewards, correct, num_rounds, sum(a is not None for a in self.advantages))
            | tree_metrics(trees, shape)
            | group_metrics(trees, rewards, shape)
            | advantage_metrics(trees, self.advantages, shape)
            | packing_metrics(trees, self.num_forwarded)
        )


def joined(shares: Sequence[Share]) -> Share:
    """The shares of all processes as one, in the order in which problems were dealt out."""
    return Share(
        merge_shards([share.trees for share in shares]),
        merge_shards([share.verified for share in shares]),
        merge_shards([share.advantages for share in shares]),
        merge_shards([share.num_forwarded for share in shares]),
        merge_shards([share.entropies for share in shares]),
    )


def counters_of_all(own: EngineCounters, processes: DistContext) -> EngineCounters:
    """What the engines of all processes did."""
    return EngineCounters(*map(int, processes.all_reduce(np.array(astuple(own), np.float64))))


def largest_of_all(own: dict[str, float], processes: DistContext) -> dict[str, float]:
    """Of each figure the largest of any process."""
    found = processes.all_gather(own)
    return {name: max(metrics[name] for metrics in found) for name in own}

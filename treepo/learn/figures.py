"""What a training step's trees look like, in numbers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from treepo.credit.leaf_weights import weighted_mean
from treepo.grow import TreeShape
from treepo.learn.groups import depths
from treepo.learn.packing import num_distinct
from treepo.tree import StopReason, Tree


def lengths_of(tree: Tree) -> np.ndarray:
    """int64, response tokens per leaf."""
    return np.array([tree.response_len(leaf) for leaf in tree.leaves()])


def tree_figures(trees: Sequence[Tree], shape: TreeShape) -> dict[str, float]:
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
        "response_len/mean": float(lengths.mean()),
        "response_len/min": int(lengths.min()),
        "response_len/max": int(lengths.max()),
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


def reward_figures(trees: Sequence[Tree], rewards: Sequence[np.ndarray]) -> dict[str, float]:
    """reward/mean: over all leaves; reward/unbiased: over the trees, each leaf with its weight (`leaf_weights`), what
    sequential sampling of these problems would have on average."""
    unbiased = [weighted_mean(tree, r) for tree, r in zip(trees, rewards, strict=True)]
    return {"reward/mean": float(np.concatenate(rewards).mean()), "reward/unbiased": float(np.mean(unbiased))}


def problem_figures(
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


def packing_figures(trees: Sequence[Tree], num_forwarded: Sequence[int]) -> dict[str, float]:
    """tokens/forwarded: prompt and response tokens that an epoch of updates forwards; tokens/unpacked: the same with
    every trajectory on its own. num_forwarded: of each tree, 0 for one that was not trained on."""
    trained = [tree for tree, num in zip(trees, num_forwarded, strict=True) if num]
    return {
        "tokens/forwarded": sum(num_forwarded),
        "tokens/unpacked": sum(int(lengths_of(t).sum()) + len(t.leaves()) * len(t.prompt_ids) for t in trained),
    }

"""What packing has to agree with: trajectories one by one, through models as transformers runs them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.trees import random_tree
from treepo.tree import Tree


def flatten(sequences: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Each distinct beginning of the sequences once; sorting puts every one before those that go on from it."""
    return sorted({tuple(s[: i + 1]) for s in sequences for i in range(len(s))})


def subtree_ends(prefixes: Sequence[tuple[int, ...]]) -> list[int]:
    """One past the last of the sorted `prefixes` that begins with each of them."""
    return [max(i for i, other in enumerate(prefixes) if other[: len(p)] == p) + 1 for p in prefixes]


def sequences_of(tree: Tree) -> list[list[int]]:
    """Prompt and response of each leaf."""
    return [tree.ids(leaf).tolist() for leaf in tree.leaves()]


def all_logprobs(model: PreTrainedModel, ids: Sequence[int], temperature: float = 1.0) -> Tensor:
    """[n - 1, V]: log-probabilities of what follows each token but the last, by one plain forward."""
    logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, :-1]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide / temperature, dim=-1)


def response_logprobs(model: PreTrainedModel, tree: Tree, leaf: int, temperature: float = 1.0) -> Tensor:
    """[n]: the log-probability of each response token of a trajectory."""
    ids = tree.ids(leaf)
    logprobs = all_logprobs(model, ids.tolist(), temperature)
    first = len(tree.prompt_ids)
    return logprobs[torch.arange(first - 1, len(ids) - 1), torch.from_numpy(ids[first:]).long()]


def ppo_loss(
    model: PreTrainedModel,
    trees: Sequence[Tree],
    advantages: Sequence[np.ndarray],
    clip_low: float,
    clip_high: float,
    temperature: float = 1.0,
) -> Tensor:
    """Mean over all response tokens of -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), one trajectory at a time."""
    terms = []
    for tree, values in zip(trees, advantages, strict=True):
        for leaf, advantage in zip(tree.leaves(), values.tolist(), strict=True):
            logprobs = response_logprobs(model, tree, leaf, temperature)
            sampled = torch.from_numpy(tree.trajectory(leaf).sampled_logprobs).to(logprobs.dtype)
            ratio = torch.exp(logprobs - sampled)
            clipped = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
            terms.append(-torch.minimum(ratio * advantage, clipped * advantage))
    return torch.cat(terms).mean()


def sampled_by(model: PreTrainedModel, tree: Tree, rng: np.random.Generator, noise: float) -> Tree:
    """The same tree as if sampled by a policy near `model`: its log-probabilities with normal noise added."""
    logprobs: dict[int, np.ndarray] = {}
    with torch.no_grad():
        for leaf in tree.leaves():
            ids = tree.ids(leaf)
            every = all_logprobs(model, ids.tolist()).numpy()
            end = len(tree.prompt_ids)
            for index in tree.path(leaf)[1:]:
                start, end = end, end + len(tree.nodes[index].token_ids)
                values = every[np.arange(start - 1, end - 1), ids[start:end]]
                logprobs[index] = (values + noise * rng.normal(size=len(values))).astype(np.float32)
    nodes = [replace(n, sampled_logprobs=logprobs[i]) if i in logprobs else n for i, n in enumerate(tree.nodes)]
    return Tree(tree.problem_id, nodes)


def random_trees(model: PreTrainedModel, seed: int, num_trees: int, noise: float = 0.3) -> list[Tree]:
    """Random trees with forks, splits and siblings that begin alike; their ratios lie in and out of the clip range."""
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, int(rng.integers(2, 8)), vocab=6, max_segments=4) for _ in range(num_trees)]
    return [sampled_by(model, tree, rng, noise) for tree in trees]


def random_advantages(trees: Sequence[Tree], seed: int) -> list[np.ndarray]:
    """Advantages of mixed sign."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=len(tree.leaves())) for tree in trees]

"""What packing has to agree with: trajectories one by one, through models as transformers runs them."""

from collections.abc import Callable, Sequence
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


Formula = Callable[[Tensor, Tensor, float], Tensor]
"""(policy logprobs [n], sampled logprobs [n], advantage) of one trajectory -> loss per token [n], as published."""


def ppo(low: float, high: float, dual: float | None = None) -> Formula:
    """-min(r A, clip(r) A), and for A < 0 not above -dual A."""

    def formula(logprobs: Tensor, sampled: Tensor, advantage: float) -> Tensor:
        ratio = torch.exp(logprobs - sampled)
        objective = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        if dual is not None and advantage < 0:
            objective = torch.maximum(objective, torch.full_like(objective, dual * advantage))
        return -objective

    return formula


def gspo(low: float, high: float) -> Formula:
    """The same with the geometric mean of the ratios in the place of each."""

    def formula(logprobs: Tensor, sampled: Tensor, advantage: float) -> Tensor:
        ratio = torch.exp((logprobs - sampled).mean())
        objective = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        return -objective.expand(len(logprobs))

    return formula


def cispo(low: float, high: float) -> Formula:
    """The policy gradient with ratios as weights, bounded and without gradient."""
    return lambda logprobs, sampled, a: -(torch.exp(logprobs - sampled).clamp(low, high).detach() * a * logprobs)


def reinforce() -> Formula:
    """The policy gradient alone."""
    return lambda logprobs, sampled, a: -a * logprobs


def token_mean(losses: Sequence[Tensor]) -> Tensor:
    """Over all tokens of all trajectories."""
    return torch.cat(list(losses)).mean()


def trajectory_mean(losses: Sequence[Tensor]) -> Tensor:
    """Over trajectories, of means over tokens."""
    return torch.stack([x.mean() for x in losses]).mean()


def constant_length(length: int) -> Callable[[Sequence[Tensor]], Tensor]:
    """Over trajectories, of sums over tokens divided by a constant."""
    return lambda losses: torch.stack([x.sum() / length for x in losses]).mean()


def separate_loss(
    model: PreTrainedModel,
    trees: Sequence[Tree],
    advantages: Sequence[np.ndarray],
    formula: Formula,
    temperature: float = 1.0,
    aggregate: Callable[[Sequence[Tensor]], Tensor] = token_mean,
) -> Tensor:
    """The loss of an update, one trajectory at a time."""
    losses = []
    for tree, values in zip(trees, advantages, strict=True):
        for leaf, advantage in zip(tree.leaves(), values.tolist(), strict=True):
            logprobs = response_logprobs(model, tree, leaf, temperature)
            sampled = torch.from_numpy(tree.trajectory(leaf).sampled_logprobs).to(logprobs.dtype)
            losses.append(formula(logprobs, sampled, advantage))
    return aggregate(losses)


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


def case_id(value: object) -> str:
    """The name of a test case, the same in every process: functions are left out."""
    return "" if hasattr(value, "__name__") else repr(value)

"""The loop: grow, verify, credit, pack, update."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import numpy as np

from treepo.credit import Estimator, whiten
from treepo.engine import Engine
from treepo.grow import TreeSampler
from treepo.learn.packing import PackedTree, num_distinct, pack
from treepo.learn.update import Updater
from treepo.model.policy import Policy
from treepo.seeds import derive_seed
from treepo.task.problem import Problem, Task
from treepo.tree import StopReason, Tree


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step did: metrics by name (times in seconds), its trees, and per tree one reward and one advantage per
    leaf (None for a tree that was not trained on)."""

    metrics: dict[str, float]
    trees: list[Tree]
    rewards: list[np.ndarray]
    advantages: list[np.ndarray | None]


@dataclass(frozen=True)
class Trainer:
    """Post-trains a policy with trees; every part is built elsewhere.

    problems_per_step: trees grown per step; num_mini_batches: updates per step, each on its share of the problems.
    """

    policy: Policy
    task: Task
    engine: Engine
    sampler: TreeSampler
    estimator: Estimator
    updater: Updater
    problems_per_step: int
    num_mini_batches: int
    seed: int

    def step(self, step: int) -> StepResult:
        """Training step number `step`, from 1."""
        clock = _Clock()
        problems = self.task.training_problems(step - 1, self.problems_per_step)
        trees = self.grow(problems, step)
        clock.lap("grow")
        rewards = [self.verify(p, tree) for p, tree in zip(problems, trees, strict=True)]
        clock.lap("verify")
        advantages = credit(trees, rewards, self.estimator)
        packed = [None if a is None else pack(tree, a) for tree, a in zip(trees, advantages, strict=True)]
        clock.lap("pack")
        trained = [p for p in packed if p is not None]
        updates = [self.updater.update(trees) for trees in self.mini_batches(trained)]
        self.engine.update_weights(self.policy.model)
        clock.lap("update")
        metrics = _step_metrics(trees, rewards, packed) | _mean(updates) | clock.metrics()
        return StepResult(metrics, trees, rewards, advantages)

    def grow(self, problems: Sequence[Problem], step: int) -> list[Tree]:
        """One tree per problem, in their order."""
        grown = dict(self.sampler.grow(problems, derive_seed(self.seed, "train", step)))
        return [grown[i] for i in range(len(problems))]

    def verify(self, problem: Problem, tree: Tree) -> np.ndarray:
        """float64, one reward per leaf."""
        texts = [self.policy.decode(t.token_ids.tolist()) for t in tree.trajectories()]
        return np.array([self.task.reward(problem, text) for text in texts])

    def mini_batches(self, trained: list[PackedTree]) -> list[list[PackedTree]]:
        """The trees of each update: at most num_mini_batches parts of equal size, by problem."""
        bounds = np.linspace(0, len(trained), min(self.num_mini_batches, len(trained)) + 1).astype(int)
        return [trained[start:end] for start, end in pairwise(bounds)]


def credit(trees: Sequence[Tree], rewards: Sequence[np.ndarray], estimator: Estimator) -> list[np.ndarray | None]:
    """The advantages of each tree's leaves; None for a tree whose rewards all agree, which carries no signal."""
    kept = [i for i, r in enumerate(rewards) if r.min() < r.max()]
    advantages = [estimator(trees[i], rewards[i]) for i in kept]
    if estimator.whiten and kept:
        advantages = whiten(advantages, [_lengths(trees[i]) for i in kept])
    by_tree = dict(zip(kept, advantages, strict=True))
    return [by_tree.get(i) for i in range(len(trees))]


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.start = self.last = perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[f"time/{name}_s"] = now - self.last
        self.last = now

    def metrics(self) -> dict[str, float]:
        return self.laps | {"time/step_s": self.last - self.start}


def _lengths(tree: Tree) -> np.ndarray:
    return np.array([tree.response_len(leaf) for leaf in tree.leaves()])


def _mean(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the updates of a step; empty if there was none."""
    return {f"update/{name}": float(np.mean([u[name] for u in updates])) for name in (updates[0] if updates else ())}


def _step_metrics(
    trees: Sequence[Tree], rewards: Sequence[np.ndarray], packed: Sequence[PackedTree | None]
) -> dict[str, float]:
    """Counts of tokens, rewards and ends of one step.

    tokens/decoded: what the engine decoded; tokens/distinct: with siblings that begin alike merged; tokens/total: the
    sum over trajectories, which sequential sampling would have decoded. tokens/forwarded: prompt and response tokens
    that the update forwarded; tokens/unpacked: the same with every trajectory on its own.
    """
    lengths = np.concatenate([_lengths(tree) for tree in trees])
    trained = [(tree, p) for tree, p in zip(trees, packed, strict=True) if p is not None]
    stops = Counter(tree.nodes[leaf].stop for tree in trees for leaf in tree.leaves())
    return {
        "reward/mean": float(np.concatenate(rewards).mean()),
        "problems/grown": len(trees),
        "problems/trained": len(trained),
        "tokens/decoded": sum(tree.num_decoded() for tree in trees),
        "tokens/distinct": sum(num_distinct(tree) for tree in trees),
        "tokens/total": int(lengths.sum()),
        "tokens/forwarded": sum(p.num_tokens for _, p in trained),
        "tokens/unpacked": sum(int(_lengths(t).sum()) + len(t.leaves()) * len(t.prompt_ids) for t, _ in trained),
        "response_len/mean": float(lengths.mean()),
        "response_len/max": int(lengths.max()),
        **{f"stop/{reason}": stops[reason] / len(lengths) for reason in StopReason},
    }

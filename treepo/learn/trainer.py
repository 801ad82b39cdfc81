"""The loop: grow, verify, credit, pack, update."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import numpy as np

from treepo.credit import Estimator, token_counts
from treepo.credit.whitening import Sums, same, whiten_with, whitening
from treepo.engine import Engine
from treepo.grow import StrategyError, TreeSampler
from treepo.learn.dynamic import DynamicSampling
from treepo.learn.entropies import tree_entropies
from treepo.learn.figures import lengths_of, packing_figures, problem_figures, reward_figures, tree_figures
from treepo.learn.groups import advantage_figures, group_figures
from treepo.learn.memory import begin_peak, cache_figures, memory_figures
from treepo.learn.packing import PackedTree
from treepo.learn.rewards import Verified, check_figures, part_figures, verify
from treepo.learn.update import Updater
from treepo.model.policy import Policy
from treepo.seeds import derive_seed
from treepo.task.problem import Problem, Task
from treepo.task.shaping import Reward, ShapedReward
from treepo.tree import Tree


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step did: metrics by name (times in seconds), its trees, and per tree one reward per leaf and the
    advantages, one per leaf or per node (None for a tree that was not trained on). entropies: per tree what
    `tree_entropies` says of it before the first update, if it was asked for."""

    metrics: dict[str, float]
    trees: list[Tree]
    rewards: list[np.ndarray]
    advantages: list[np.ndarray | None]
    entropies: list[list[np.ndarray]] | None = None


@dataclass(frozen=True)
class Trainer:
    """Post-trains a policy with trees; every part is built elsewhere.

    problems_per_step: trees wanted per step; num_mini_batches: updates per epoch, each on its share of the problems;
    num_epochs: how often a step goes over its trees; dynamic: whether problems without a signal are made up for;
    reward: what the leaves get for what the task says of them.
    """

    policy: Policy
    task: Task
    engine: Engine
    sampler: TreeSampler
    estimator: Estimator
    updater: Updater
    problems_per_step: int
    num_mini_batches: int
    num_epochs: int
    dynamic: DynamicSampling
    seed: int
    reward: Reward = ShapedReward()

    def step(
        self, step: int, before_updates: Callable[[], None] = lambda: None, with_entropies: bool = False
    ) -> StepResult:
        """Training step number `step`, from 1. before_updates: called before the first change of the weights."""
        clock = _Clock()
        begin_peak(self.policy.model.device)
        before, num_oom = self.engine.counters, self.updater.bound.num_oom
        trees, verified, num_rounds = self.rollout(step, clock)
        rewards = [v.rewards for v in verified]
        grown = self.engine.counters - before
        advantages, raw_figures = credited(trees, rewards, self.estimator, self.problems_per_step)
        cache = cache_figures(self.engine)
        self.engine.rest()
        packed = [[] if a is None else self.updater.pack(tree, a) for tree, a in zip(trees, advantages, strict=True)]
        clock.lap("pack")
        trained = [parts for parts in packed if parts]
        entropies = None
        if with_entropies:
            entropies = tree_entropies(trees, self.updater)
            clock.lap("entropies")
        before_updates()
        updates = self.update(trained)
        self.engine.update_weights(self.policy.model)
        clock.lap("update")
        metrics = (
            reward_figures(trees, rewards)
            | {"correct/mean": float(np.concatenate([v.correct for v in verified]).mean())}
            | part_figures(verified)
            | check_figures(verified)
            | problem_figures(rewards, [v.correct for v in verified], num_rounds, len(trained))
            | tree_figures(trees, self.sampler.rules.shape)
            | group_figures(trees, rewards, self.sampler.rules.shape)
            | advantage_figures(trees, advantages, self.sampler.rules.shape)
            | raw_figures
            | packing_figures(trees, packed)
            | grown.metrics()
            | _update_figures(updates)
            | (self.updater.limit_figures(num_oom) if updates else {})
            | memory_figures(self.policy.model, self.updater.optimizer)
            | cache
            | clock.metrics(trees)
        )
        return StepResult(metrics, trees, rewards, advantages, entropies)

    def rollout(self, step: int, clock: "_Clock") -> tuple[list[Tree], list[Verified], int]:
        """(trees, what the leaves of each got, rounds): grown and verified until enough of them carry a signal."""
        problems = self.task.training_problems(step - 1, self.dynamic.most(self.problems_per_step))
        trees: list[Tree] = []
        verified: list[Verified] = []
        num_rounds = 0
        while count := self.dynamic.num_next(
            self.problems_per_step, sum(has_signal(v.rewards) for v in verified), len(trees), num_rounds
        ):
            asked = problems[len(trees) : len(trees) + count]
            grown = self.grow(asked, step, num_rounds)
            clock.lap("grow")
            verified += self.verify(asked, grown)
            clock.lap("verify")
            trees += grown
            num_rounds += 1
        return trees, verified, num_rounds

    def grow(self, problems: Sequence[Problem], step: int, num_rounds: int = 0) -> list[Tree]:
        """One tree per problem, in their order; another one for the same problem in another step or round."""
        grown = dict(self.sampler.grow(problems, derive_seed(self.seed, "train", step, num_rounds)))
        return [grown[i] for i in range(len(problems))]

    def verify(self, problems: Sequence[Problem], trees: Sequence[Tree]) -> list[Verified]:
        """What the leaves of each problem's tree get: they are judged once, and rewarded beside the tree's others."""
        limit = self.sampler.rules.shape.response_limit
        return verify(self.task, self.reward, problems, trees, self.policy.decode, limit)

    def update(self, trained: list[list[PackedTree]]) -> list[dict[str, float]]:
        """All updates of a step, on the parts of each tree; their metrics."""
        batches = self.mini_batches(trained)
        prepared = [self.updater.prepare(batch) for batch in batches]
        return [self.updater.update(batch) for _ in range(self.num_epochs) for batch in prepared]

    def mini_batches(self, trained: list[list[PackedTree]]) -> list[list[PackedTree]]:
        """The parts of the trees of each update: at most num_mini_batches, of as many problems each as can be."""
        bounds = np.linspace(0, len(trained), min(self.num_mini_batches, len(trained)) + 1).astype(int)
        return [[part for tree in trained[start:end] for part in tree] for start, end in pairwise(bounds)]


def has_signal(rewards: np.ndarray) -> bool:
    """Whether the rewards of a tree's leaves differ; where all agree there is nothing to learn."""
    return bool(rewards.min() < rewards.max())


def credit(
    trees: Sequence[Tree],
    rewards: Sequence[np.ndarray],
    estimator: Estimator,
    max_trees: int | None = None,
    sums: Sums = same,
) -> list[np.ndarray | None]:
    """The advantages that `credited` gives."""
    return credited(trees, rewards, estimator, max_trees, sums)[0]


def credited(
    trees: Sequence[Tree],
    rewards: Sequence[np.ndarray],
    estimator: Estimator,
    max_trees: int | None = None,
    sums: Sums = same,
) -> tuple[list[np.ndarray | None], dict[str, float]]:
    """The advantages of each tree's leaves, or of its nodes; None for a tree without a signal, and for those beyond the
    first `max_trees` that have one. And advantages/raw_mean, advantages/raw_std: what was subtracted from them and what
    they were then divided by, if they were whitened.

    sums: adds up numbers over the processes among which the trees are divided; each has to call this, with or without
    trees of its own. Raises StrategyError naming the estimator for what it cannot credit, see `estimated`.
    """
    kept = [i for i, r in enumerate(rewards) if has_signal(r)][:max_trees]
    advantages = [estimated(estimator, trees[i], rewards[i]) for i in kept]
    figures: dict[str, float] = {}
    if estimator.whiten:
        counts = [token_counts(trees[i], a) for i, a in zip(kept, advantages, strict=True)]
        mean, std = whitening(advantages, counts, sums)
        advantages = whiten_with(advantages, counts, mean, std)
        figures = {"advantages/raw_mean": mean, "advantages/raw_std": std}
    by_tree = dict(zip(kept, advantages, strict=True))
    return [by_tree.get(i) for i in range(len(trees))], figures


def estimated(estimator: Estimator, tree: Tree, rewards: np.ndarray) -> np.ndarray:
    """float64: what an estimator makes of a tree, one per leaf [L], or with `per_node` one per node [N] or per node and
    leaf [N, L]. Raises StrategyError naming it if it refuses the rewards, or returns another shape or what is not
    finite."""
    name, num_nodes, num_leaves = type(estimator).__name__, len(tree.nodes), len(rewards)
    try:
        advantages = np.asarray(estimator(tree, rewards), np.float64)
    except ValueError as error:
        raise StrategyError(f"credit: {name}: {error}") from error
    shapes = [(num_nodes,), (num_nodes, num_leaves)] if estimator.per_node else [(num_leaves,)]
    if advantages.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise StrategyError(
            f"credit: {name} returned advantages of shape {advantages.shape}, expected {expected} for a tree of "
            f"{num_nodes} nodes and {num_leaves} leaves with per_node = {estimator.per_node}"
        )
    if not np.isfinite(advantages).all():
        raise StrategyError(f"credit: {name} returned an advantage that is not finite")
    return advantages


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.start = self.last = perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = perf_counter()
        name = f"time/{name}_s"
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now

    def metrics(self, trees: Sequence[Tree]) -> dict[str, float]:
        """Seconds by name, and trajectories and their tokens per second of the whole step."""
        seconds = self.last - self.start
        lengths = np.concatenate([lengths_of(tree) for tree in trees])
        rates = {"trajectories": len(lengths) / seconds, "tokens": float(lengths.sum()) / seconds}
        return self.laps | {"time/step_s": seconds} | {f"time/{name}_per_s": rate for name, rate in rates.items()}


def _update_figures(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the updates of a step; of how far the engine is from the policy, what the first update
    found, before which no weight had changed. Empty if there was none."""
    figures = {}
    for name in updates[0] if updates else ():
        if name.startswith("mismatch/"):
            figures[name] = updates[0][name]
        else:
            figures[f"update/{name}"] = float(np.mean([u[name] for u in updates]))
    return figures

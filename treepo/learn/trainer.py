"""The loop: grow, verify, credit, pack, update."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

import numpy as np

from treepo.credit.base import Estimator
from treepo.data.problem import Problem, Task
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine
from treepo.grow.sampler import TreeSampler
from treepo.learn.advantages import compute_advantages, has_signal
from treepo.learn.memory import begin_peak, cache_metrics, memory_metrics
from treepo.learn.metrics import Share, counters_of_all, joined, largest_of_all, lengths_of
from treepo.learn.packing import PackedTree
from treepo.learn.settings import DynamicSampling
from treepo.learn.updater import Updater, tree_entropies
from treepo.model.fsdp import unsharded
from treepo.model.policy import Policy
from treepo.tree import Tree
from treepo.utils.rng import derive_seed
from treepo.verify.rewards import Reward, ShapedReward
from treepo.verify.scoring import ScoredLeaves, judge_trees, score_leaves


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step did: metrics by name (times in seconds), its trees, and per tree one reward per leaf and the
    advantages, one per leaf or per node (None for a tree that was not trained on). entropies: per tree what
    `tree_entropies` says of it before the first update, if it was asked for.

    Of several processes all have the metrics, of all trees; the first has all trees, the others their own.
    """

    metrics: dict[str, float]
    trees: list[Tree]
    rewards: list[np.ndarray]
    advantages: list[np.ndarray | None]
    entropies: list[list[np.ndarray]] | None = None


@dataclass(frozen=True)
class Trainer:
    """Post-trains a policy with trees; every part is built elsewhere.

    prompts_per_step: trees wanted per step; num_mini_batches: updates per epoch, each on its share of the problems;
    num_iterations: how often a step goes over its trees; dynamic: whether problems without a signal are made up for;
    reward: what the leaves get for what the task says of them; processes: those that the problems of a step are dealt
    out to, each with an engine of its own. They make the updates of one process.
    """

    policy: Policy
    task: Task
    engine: Engine
    sampler: TreeSampler
    estimator: Estimator
    updater: Updater
    prompts_per_step: int
    num_mini_batches: int
    num_iterations: int
    dynamic: DynamicSampling
    seed: int
    reward: Reward = ShapedReward()
    processes: DistContext = SINGLE_PROCESS

    def step(
        self,
        step: int,
        before_updates: Callable[[], None] = lambda: None,
        growing: Callable[[], AbstractContextManager[object]] = nullcontext,
        with_entropies: bool = False,
    ) -> StepResult:
        """Training step number `step`, from 1. before_updates: called before the first change of the weights. growing:
        entered while trees are grown and verified, when no process waits in the middle of something for another.
        with_entropies: whether those of the trees are wanted, for one more forward."""
        clock = _Clock()
        begin_peak(self.policy.model.device)
        before, num_oom = self.engine.counters, self.updater.bound.num_oom
        with unsharded(self.policy.model):
            rolled = self.rollout(step, clock, growing)
            cache = cache_metrics(self.engine)
            self.engine.sleep()
        kept = [place for place, has_one in enumerate(rolled.has_signal) if has_one][: self.prompts_per_step]
        # The trees that are trained on stand in `kept` at these places.
        own = [i for i, place in enumerate(kept) if place % self.processes.world_size == self.processes.rank]
        rewards = [v.rewards for v in rolled.verified]
        advantages, raw_figures = compute_advantages(rolled.trees, rewards, self.estimator, len(own), self.processes)
        pairs = zip(rolled.trees, advantages, strict=True)
        packed = [[] if a is None else self.updater.pack(tree, a) for tree, a in pairs]
        clock.lap("pack")
        entropies: list[list[np.ndarray]] = []
        if with_entropies:
            entropies = tree_entropies(rolled.trees, self.updater)
            clock.lap("entropies")
        before_updates()
        updates = self.update([parts for parts in packed if parts], own, len(kept))
        self.hand_over()
        clock.lap("update")
        num_forwarded = [sum(part.num_tokens for part in parts) for parts in packed]
        share = Share(rolled.trees, rolled.verified, advantages, num_forwarded, entropies)
        memory = memory_metrics(self.policy.model, self.updater.optimizer) | cache
        metrics = (
            counters_of_all(self.engine.counters - before, self.processes).metrics()
            | raw_figures
            | _update_metrics(updates)
            | (self.updater.limit_metrics(num_oom) if updates else {})
            | largest_of_all(memory, self.processes)
        )
        if shares := self.processes.gather(share):
            share = joined(shares)
            metrics = share.metrics(self.sampler.rules.shape, rolled.num_rounds) | metrics | clock.metrics(share.trees)
        kept_entropies = share.entropies if with_entropies else None
        return StepResult(
            self.processes.broadcast(metrics), share.trees, share.rewards, share.advantages, kept_entropies
        )

    def hand_over(self) -> None:
        """Let the engines have the policy's weights: the first process's, and then those that follow it."""
        with unsharded(self.policy.model):
            for is_first in (True, False):
                with self.processes.synced_errors():
                    if self.processes.is_first == is_first:
                        self.engine.update_weights(self.policy.model)

    def rollout(self, step: int, clock: "_Clock", growing: Callable[[], AbstractContextManager[object]]) -> "_Rolled":
        """Grow and verify trees until enough of them carry a signal."""
        problems = self.task.training_problems(step - 1, self.dynamic.most(self.prompts_per_step))
        rolled = _Rolled()
        while count := self.dynamic.num_next(
            self.prompts_per_step, sum(rolled.has_signal), len(rolled.has_signal), rolled.num_rounds
        ):
            start = len(rolled.has_signal)
            asked = problems[start : start + count]
            own = self.processes.shard(range(len(asked)), start)
            with self.processes.synced_errors(), growing():
                grown = self.grow(asked, step, rolled.num_rounds, own)
                clock.lap("grow")
                rolled.verified += self.verify([asked[i] for i in own], grown)
                clock.lap("verify")
            rolled.trees += grown
            rolled.num_rounds += 1
            rolled.has_signal = self.processes.unshard([has_signal(v.rewards) for v in rolled.verified])
            if self.processes.world_size > 1:
                clock.lap("wait")
        return rolled

    def grow(
        self, problems: Sequence[Problem], step: int, num_rounds: int = 0, chosen: Sequence[int] | None = None
    ) -> list[Tree]:
        """One tree per problem, in their order; another one for the same problem in another step or round. chosen: the
        positions of those to grow, all if not given."""
        positions = range(len(problems)) if chosen is None else chosen
        grown = dict(self.sampler.grow(problems, derive_seed(self.seed, "train", step, num_rounds), positions))
        return [grown[i] for i in positions]

    def verify(self, problems: Sequence[Problem], trees: Sequence[Tree]) -> list[ScoredLeaves]:
        """What the leaves of each problem's tree get: they are judged once, and rewarded beside the tree's others."""
        limit = self.sampler.rules.shape.max_response_tokens
        judged = judge_trees(self.task, problems, trees, self.policy.decode)
        return [score_leaves(self.reward, one, limit) for one in judged]

    def update(
        self, trained: list[list[PackedTree]], places: Sequence[int], num_trained: int
    ) -> list[dict[str, float]]:
        """All updates of a step, on the parts of each tree of this process; their metrics. See `mini_batches`."""
        batches = self.mini_batches(trained, places, num_trained)
        prepared = [self.updater.prepare(batch) for batch in batches]
        return [self.updater.update(batch) for _ in range(self.num_iterations) for batch in prepared]

    def mini_batches(
        self, trained: list[list[PackedTree]], places: Sequence[int], num_trained: int
    ) -> list[list[PackedTree]]:
        """The parts of the trees of each update: at most num_mini_batches, of as many problems each as can be.

        places: where this process's trees stand among the `num_trained` of all; of an update it may have none.
        """
        bounds = np.linspace(0, num_trained, min(self.num_mini_batches, num_trained) + 1).astype(int)
        return [
            [part for place, tree in zip(places, trained, strict=True) if start <= place < end for part in tree]
            for start, end in pairwise(bounds)
        ]


@dataclass
class _Rolled:
    """The trees of a step so far and what their leaves got; of all processes, in the order of the problems, whether a
    tree carries a signal; and how many rounds were grown."""

    trees: list[Tree] = field(default_factory=list)
    verified: list[ScoredLeaves] = field(default_factory=list)
    has_signal: list[bool] = field(default_factory=list)
    num_rounds: int = 0


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


def _update_metrics(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the updates of a step; of how far the engine is from the policy, what the first update
    found, before which no weight had changed. Empty if there was none."""
    metrics = {}
    for name in updates[0] if updates else ():
        if name.startswith("mismatch/"):
            metrics[name] = updates[0][name]
        else:
            name_there = "clip_ratio/region_mean" if name == "clip_fraction" else f"update/{name}"
            metrics[name_there] = float(np.mean([u[name] for u in updates]))
    return metrics

"""The loop: grow, verify, credit, pack, update."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import numpy as np

from treepo.credit.base import Advantages, Estimator
from treepo.data.problem import Problem, Task
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine
from treepo.engine.weights import give_weights, serving
from treepo.grow.sampler import TreeSampler
from treepo.learn.advantages import compute_advantages, has_signal, in_whole_tree, rewarded_part
from treepo.learn.metrics import (
    StepShard,
    max_metrics,
    mean_update_metrics,
    memory_metrics,
    reset_peak,
)
from treepo.learn.rollout import GrownTrees, Rollout, RolloutAhead, StepClock, StepCounters, rollout_seed
from treepo.learn.settings import DynamicSampling
from treepo.learn.updater import Updater, mini_batches
from treepo.model.policy import Policy
from treepo.tree import Tree
from treepo.utils.signals import PhaseCallback, StepGuard, StepState, no_progress
from treepo.verify.rewards import Reward, ScoredLeaves, ShapedReward, TrainerState, score_trees, verify_trees


@dataclass(frozen=True, eq=False)
class StepResult:
    """The outcome of a step: metrics by name (times in seconds), its trees, and per tree its problem, the verdicts and
    rewards of its leaves, and its advantages, None for a tree that was not trained on. entropies: per tree
    `Updater.tree_entropies` before the first update, if they were asked for.

    Of several processes all have the metrics, of all trees; the first has all trees, the others their own.
    """

    metrics: dict[str, float]
    problems: list[Problem]
    trees: list[Tree]
    scored: list[ScoredLeaves]
    advantages: list[Advantages | None]
    entropies: list[list[np.ndarray]] | None = None

    @property
    def rewards(self) -> list[np.ndarray]:
        """Per tree one per leaf, float64 [L]."""
        return [scored.rewards for scored in self.scored]

    def __repr__(self) -> str:
        trained = sum(advantages is not None for advantages in self.advantages)
        shown = {"reward/mean": "reward {:.3f}", "accuracy": "accuracy {:.1%}"}
        known = [form.format(self.metrics[name]) for name, form in shown.items() if name in self.metrics]
        return f"StepResult({', '.join([f'{len(self.trees)} trees', f'{trained} trained on', *known])})"


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Post-trains a policy with trees; every part is built elsewhere.

    prompts_per_step: trees wanted per step, unless the sampler plans their number; num_mini_batches: updates per epoch,
    each on its share of the problems; num_iterations: how often a step goes over its trees; dynamic_sampling: whether
    problems without a signal are replaced by others; reward: from the task's verdicts to the rewards of leaves;
    num_steps: steps of the run, for rewards that change with it; processes: those that the problems of a step are dealt
    out to, each with an engine of its own. They make the updates of one process. overlap: whether the trees of a step
    grow `ahead`, while the step before is learned from, over an engine with a copy of the weights, and so from those
    before that step.
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
    dynamic_sampling: DynamicSampling
    seed: int
    reward: Reward = ShapedReward()
    num_steps: int = 0
    processes: DistContext = SINGLE_PROCESS
    overlap: bool = False
    ahead: RolloutAhead = field(default_factory=RolloutAhead)

    def step(
        self,
        step: int,
        *,
        guard: StepGuard | None = None,
        with_entropies: bool = False,
        progress: PhaseCallback = no_progress,
    ) -> StepResult:
        """Make training step number `step`, from 1.

        guard: is GROWING while trees are grown and verified, when no process waits in the middle of something for
        another, and UPDATING from before the first change of the weights; the caller completes the step.
        with_entropies: compute the entropies of the trees, with one more forward. progress: called while trees grow,
        with trajectories of this process, and with the updates that are made.
        """
        guard, clock = guard or StepGuard(), StepClock()
        reset_peak(self.policy.model.device)
        num_oom = self.updater.memory_limit.num_oom
        rollout = self.rollout(step, guard, clock, progress)
        trained = [i for i, carries_signal in enumerate(rollout.has_signal) if carries_signal]
        trained = trained[: self._num_wanted(rollout.problems)]
        # Where the trees of this process stand among those that are trained on.
        places = [place for place, i in enumerate(trained) if i % self.processes.world_size == self.processes.rank]
        rewards = [scored.rewards for scored in rollout.scored]
        parts = [rewarded_part(tree, own) for tree, own in zip(rollout.trees, rewards, strict=True)]
        judged = [tree for tree, _ in parts]
        advantages = compute_advantages(judged, [r for _, r in parts], self.estimator, len(places), self.processes)
        pairs = zip(judged, advantages.by_tree, strict=True)
        packed = [[] if own is None else self.updater.pack(tree, own) for tree, own in pairs]
        clock.lap("pack")
        entropies: list[list[np.ndarray]] = []
        if with_entropies:
            entropies = self.updater.tree_entropies(rollout.trees)
            clock.lap("entropies")
        guard.state = StepState.UPDATING
        # What is saved of a step that is given up before here must not have it.
        self.sampler.observe(judged, [r for _, r in parts])
        if self.overlap:
            self._grow_next(step)
            clock.lap("sync")
        own_trees = [parts for parts in packed if parts]
        batches = mini_batches(own_trees, places, num_trees=len(trained), num_batches=self.num_mini_batches)
        batches, imbalance = self.updater.balance(batches)
        updates = self.updater.update_all(batches, self.num_iterations, progress)
        self.ahead.is_stale = True
        if not self.overlap:
            self.sync_weights()
        clock.lap("update")
        metrics = rollout.counters.summed(self.processes).metrics() | advantages.metrics | rollout.metrics
        metrics |= mean_update_metrics(updates) | imbalance
        if updates:
            metrics["update/max_tokens_per_micro_batch"] = self.updater.max_tokens
            metrics["update/num_oom"] = self.updater.memory_limit.num_oom - num_oom
        memory = memory_metrics(self.policy.model, self.updater.optimizer, rollout.cache_bytes)
        metrics |= max_metrics(memory, self.processes)
        num_forwarded = [sum(part.num_tokens for part in parts) for parts in packed]
        credited = [
            own and in_whole_tree(own, tree, r)
            for own, tree, r in zip(advantages.by_tree, rollout.trees, rewards, strict=True)
        ]
        shard = StepShard(rollout.trees, rollout.scored, credited, num_forwarded, entropies)
        result = self._merged(shard, rollout, metrics, clock)
        return result if with_entropies else replace(result, entropies=None)

    def _merged(self, own: StepShard, rollout: Rollout, metrics: dict[str, float], clock: StepClock) -> StepResult:
        """The outcome of a step from the shards of all processes."""
        # Every process knows the problems of all: their records, which may be large, are not sent.
        problems = self.processes.shard(rollout.problems)
        if shards := self.processes.gather(own):
            problems = rollout.problems
            own = StepShard.merge(shards)
            of_trees = own.metrics(self.sampler.rules, rollout.num_rounds)
            metrics = of_trees | metrics | clock.metrics(own.trees)
        metrics = self.processes.broadcast(metrics)
        return StepResult(
            metrics=metrics,
            problems=problems,
            trees=own.trees,
            scored=own.scored,
            advantages=own.advantages,
            entropies=own.entropies,
        )

    def rollout(self, step: int, guard: StepGuard, clock: StepClock, progress: PhaseCallback = no_progress) -> Rollout:
        """The trees of a step: those that have grown ahead, or else grown now."""
        if self.ahead.step == step:
            rollout = self._take_ahead(step, guard, clock, progress)
        else:
            with self.serving():
                rollout = self._grow_rounds(step, guard, clock, progress)
                rollout.cache_bytes = self.engine.cache_bytes
                if not self.overlap:
                    with self.processes.synced_errors():
                        self.engine.sleep()
        if self.overlap:
            lags = {step - 1 - tree.weights_version for tree in rollout.trees if tree.weights_version is not None}
            assert lags < {0, 1}, "a step learns from trees of one version of the weights, that or the one before"
            rollout.metrics["mismatch/lag"] = max(self.processes.all_gather(max(lags, default=0)))
        return rollout

    def _grow_rounds(self, step: int, guard: StepGuard, clock: StepClock, progress: PhaseCallback) -> Rollout:
        """Grow and verify trees until enough of them carry a signal."""
        rollout, counters = Rollout(metrics=self.sampler.begin_step(step)), StepCounters.of(self.sampler)
        most = self.dynamic_sampling.max_problems(self.prompts_per_step)
        problems = self.task.training_problems(step - 1, *self.sampler.problem_range(most))
        while count := self.dynamic_sampling.num_next(
            self._num_wanted(problems), sum(rollout.has_signal), len(rollout.has_signal), rollout.num_rounds
        ):
            start = len(rollout.has_signal)
            wanted = problems[start : start + count]
            own = self.processes.shard(range(len(wanted)), start)
            with self.processes.synced_errors(), guard.growing():
                trees = self.grow(wanted, step, rollout.num_rounds, own, progress)
                clock.lap("grow")
                rollout.scored += self.verify([wanted[i] for i in own], trees, step)
                clock.lap("verify")
            for tree in trees:
                tree.weights_version = step - 1
            rollout.problems += wanted
            rollout.trees += trees
            rollout.num_rounds += 1
            rollout.has_signal = self.processes.unshard([has_signal(scored.rewards) for scored in rollout.scored])
            if self.processes.world_size > 1:
                clock.lap("wait")
        rollout.counters = StepCounters.of(self.sampler) - counters
        return rollout

    def _num_wanted(self, problems: Sequence[Problem]) -> int:
        """How many trees of a step, with these problems at most, are to be trained on."""
        return self.prompts_per_step if self.dynamic_sampling.max_rounds > 1 else len(problems)

    def _take_ahead(self, step: int, guard: StepGuard, clock: StepClock, progress: PhaseCallback) -> Rollout:
        """The trees of a step that have grown beside the step before."""
        with self.processes.synced_errors(), guard.growing():
            grown = self.ahead.result(progress)
        clock.lap("grow")
        problems = self.task.training_problems(step - 1, self.prompts_per_step)
        signals = self.processes.unshard([has_signal(scored.rewards) for scored in grown.scored])
        metrics = self.sampler.begin_step(step) | {"time/ahead_s": grown.seconds}
        return Rollout(
            problems=problems,
            trees=grown.trees,
            scored=grown.scored,
            has_signal=signals,
            num_rounds=1,
            metrics=metrics,
            counters=grown.counters,
        )

    def _grow_next(self, step: int) -> None:
        """Begin to grow the trees of the step after this one, from the weights before its updates."""
        if self.num_steps and step >= self.num_steps:
            self.ahead.step = 0
            return
        if self.ahead.is_stale:
            self.sync_weights()
        problems = self.task.training_problems(step, self.prompts_per_step)
        self.ahead.begin(step + 1, partial(self._grow_ahead, step + 1, problems))

    def _grow_ahead(self, step: int, problems: Sequence[Problem], progress: PhaseCallback) -> GrownTrees:
        """Grow and verify this process's trees of the next step, without a word to other processes."""
        start, counters = perf_counter(), StepCounters.of(self.sampler)
        own = self.processes.shard(range(len(problems)))
        trees = self.grow(problems, step, 0, own, progress)
        for tree in trees:
            tree.weights_version = step - 2
        scored = self.verify([problems[i] for i in own], trees, step)
        return GrownTrees(trees, scored, StepCounters.of(self.sampler) - counters, perf_counter() - start)

    def grow(
        self,
        problems: Sequence[Problem],
        step: int,
        num_rounds: int = 0,
        chosen: Sequence[int] | None = None,
        progress: PhaseCallback = no_progress,
    ) -> list[Tree]:
        """One tree per problem, in their order; another one for the same problem in another step or round. chosen: the
        positions of those to grow, all if not given."""
        positions = range(len(problems)) if chosen is None else chosen
        seed = rollout_seed(self.seed, step, num_rounds)
        grown = dict(self.sampler.grow(problems, seed, positions, lambda done, total: progress("growing", done, total)))
        return [grown[i] for i in positions]

    def verify(self, problems: Sequence[Problem], trees: Sequence[Tree], step: int = 0) -> list[ScoredLeaves]:
        """The verdicts and rewards of the leaves of each problem's tree; a reward may compare a tree's leaves."""
        limit = self.sampler.rules.shape.max_response_tokens
        verified = verify_trees(self.task, problems, trees, self.policy.decode)
        return score_trees(self.reward, verified, limit, self.state(step))

    def state(self, step: int) -> TrainerState:
        """How far the run is, for rewards."""
        return TrainerState(step, self.num_steps)

    def serving(self) -> AbstractContextManager[None]:
        """Have the policy's weights where the engine expects them while it decodes; trees that grow ahead are done
        before."""
        self.ahead.wait()
        if self.ahead.is_stale:
            self.sync_weights()
        return serving(self.engine, self.policy.model)

    def sync_weights(self) -> None:
        """Give the policy's weights to the engines."""
        give_weights(self.engine, self.policy.model, self.processes)
        self.ahead.is_stale = False

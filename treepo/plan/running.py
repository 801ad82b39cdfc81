"""Plans that follow a run: the moments of the trees of its last steps, and the rules by which the next ones grow."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from treepo.credit.base import Estimator
from treepo.data.problem import Problem
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams
from treepo.grow.branching import InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.planned import Planned, StagedBranching
from treepo.grow.sampler import TreeSampler
from treepo.plan.choice import Kernels, Plan, choose_shape
from treepo.plan.components import Moments, moments_of
from treepo.plan.noise import linear_part
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed

NUM_SAMPLES = 100
"""Bootstrap samples of steps."""


@dataclass(frozen=True, eq=False)
class RunningPlanner:
    """What `Planned` branching has seen of a run, and the plan that follows from it.

    rules: those of the run, with the `Planned` in it. tables: the moments of the last steps, over the trees of all
    processes, which is all that a checkpoint has to hold.
    """

    rules: GrowthRules
    planned: Planned
    estimator: Estimator
    seed: int
    processes: DistContext = SINGLE_PROCESS
    tables: list[np.ndarray] = field(default_factory=list)

    @cached_property
    def kernels(self) -> Kernels:
        """Those of the shapes that were looked at so far."""
        return Kernels(linear_part(self.estimator))

    def plan(self, step: int) -> Plan | None:
        """The plan for a step; None while it is too early for one."""
        moments = [Moments.from_table(table) for table in self.tables]
        # A step of stars does not tell the stages apart.
        if sum(own.forks[1:].any() for own in moments) < self.planned.start:
            return None
        return choose_shape(
            moments,
            self.estimator,
            self.rules.shape.width,
            num_samples=NUM_SAMPLES,
            seed=derive_seed(self.seed, "plan", step),
            confidence=self.planned.confidence,
            known=self.kernels,
        )

    def rules_of(self, plan: Plan | None, step: int, problem: Problem) -> GrowthRules:
        """The rules for a problem's tree: those that explore, a plan's, or until there is one a star's."""
        if derive_seed(self.seed, "explore", step, problem.id) / 2**63 < self.planned.explore:
            return self.rules
        paths = plan.paths if plan else (self.rules.shape.width,)
        return replace(self.rules, initial_fork=InitialFork(paths[0], paths[0]), branching=StagedBranching(paths))

    def observe(self, trees: Sequence[Tree], rewards: Sequence[np.ndarray]) -> None:
        """Take in the trees of a step, of this process; all processes have to call this.

        rewards: per tree one per leaf; a tree without leaves tells nothing.
        """
        depth = self.rules.shape.depth
        table = np.zeros((depth, depth + 5))
        with self.processes.synced_errors():
            for tree, own in zip(trees, rewards, strict=True):
                if len(own):
                    table += moments_of(tree, own, self.rules.shape).table
        self.tables.append(self.processes.all_reduce(table.ravel()).reshape(table.shape))
        del self.tables[: -self.planned.window]

    def state(self) -> list[list[list[float]]]:
        """The tables, for JSON."""
        return [table.tolist() for table in self.tables]

    def restore(self, state: Sequence[Sequence[Sequence[float]]]) -> None:
        """Take over what `state` gave; raises ValueError for tables of another depth."""
        depth, tables = self.rules.shape.depth, [np.array(table, np.float64) for table in state]
        if any(table.shape != (depth, depth + 5) for table in tables):
            raise ValueError(f"the running plan is not one for trees of depth {depth}")
        self.tables[:] = tables


class PlannedSampler(TreeSampler):
    """A sampler whose trees have the shape that a planner chooses for each step."""

    def __init__(self, engine: Engine, planner: RunningPlanner, sampling: SamplingParams) -> None:
        super().__init__(engine, planner.rules, sampling)
        self.planner = planner
        self.plan: Plan | None = None
        self.step = 0

    def begin_step(self, step: int) -> dict[str, float]:
        self.plan, self.step = self.planner.plan(step), step
        return plan_metrics(self.plan)

    def rules_of(self, problem: Problem) -> GrowthRules:
        return self.planner.rules_of(self.plan, self.step, problem)

    def observe(self, trees: Sequence[Tree], rewards: Sequence[np.ndarray]) -> None:
        self.planner.observe(trees, rewards)


def plan_metrics(plan: Plan | None) -> dict[str, float]:
    """What is believed of the shapes: plan/gain of the chosen one over a star and plan/believed, the share of bootstrap
    samples in which that is above 1; per stage k plan/paths/depth_k and, per path that begins it, plan/variance/depth_k
    of the rewards and plan/tokens/depth_k. Nothing while it is too early."""
    if plan is None:
        return {}
    known = plan.components
    metrics = {"plan/is_star": float(plan.is_star), "plan/gain": plan.gain, "plan/believed": plan.believed}
    for k in range(known.depth):
        metrics[f"plan/paths/depth_{k}"] = plan.paths[k]
        metrics[f"plan/variance/depth_{k}"] = float(known.variances[k])
        metrics[f"plan/tokens/depth_{k}"] = float(known.tokens[k])
    return metrics

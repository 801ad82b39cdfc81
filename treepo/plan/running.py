"""Plans that follow a run: the moments of the trees of its last steps, and the rules by which the next ones grow."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from treepo.credit.base import Estimator
from treepo.data.problem import Problem
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams
from treepo.grow.branching import InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.planned import MAX_FACTOR, Planned, StagedBranching
from treepo.grow.sampler import TreeSampler
from treepo.plan.choice import Kernels, Plan, choose_shape
from treepo.plan.components import Moments, moments_of
from treepo.plan.noise import linear_part, mean_tokens
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed

logger = logging.getLogger(__name__)

NUM_SAMPLES = 100
"""Bootstrap samples of steps."""


@dataclass(eq=False)
class RunningPlanner:
    """What `Planned` branching has seen of a run, and the plan that follows from it.

    rules: those of the run, with the `Planned` in it. prompts_per_step: problems of a step without a budget of tokens.
    tables: the moments of the last steps, over the trees of all processes; num_taken: problems of all steps so far.
    These two are all that a checkpoint has to hold.
    """

    rules: GrowthRules
    planned: Planned
    estimator: Estimator
    seed: int
    prompts_per_step: int
    processes: DistContext = SINGLE_PROCESS
    tables: list[np.ndarray] = field(default_factory=list)
    num_taken: int = 0

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
        return self._staged(plan.paths if plan else (self.rules.shape.width,))

    def _staged(self, paths: tuple[int, ...]) -> GrowthRules:
        return replace(self.rules, initial_fork=InitialFork(paths[0], paths[0]), branching=StagedBranching(paths))

    def tokens_per_tree(self, plan: Plan | None) -> float:
        """Tokens that a tree of a step is predicted to decode, in the mean over those that explore and the others; 0
        without a plan or a budget."""
        if plan is None or not self.planned.tokens_per_step:
            return 0.0
        own, explored = (mean_tokens(rules, plan.components) for rules in (self._staged(plan.paths), self.rules))
        return own + self.planned.explore * (explored - own)

    def observe(self, trees: Sequence[Tree], rewards: Sequence[np.ndarray]) -> None:
        """Take in the trees of a step, of this process; all processes have to call this.

        rewards: per tree one per leaf; a tree without leaves tells nothing.
        """
        depth = self.rules.shape.depth
        shape = (depth, depth + 5)
        table = np.zeros(shape)
        with self.processes.synced_errors():
            for tree, own in zip(trees, rewards, strict=True):
                if len(own):
                    table += moments_of(tree, own, self.rules.shape).table
        *sums, num_trees = self.processes.all_reduce(np.append(table, len(trees)))
        self.tables.append(np.reshape(sums, shape))
        del self.tables[: -self.planned.window]
        self.num_taken += int(num_trees)

    def state(self) -> dict[str, Any]:
        """The tables and the number of problems, for JSON."""
        return {"tables": [table.tolist() for table in self.tables], "num_taken": self.num_taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; raises ValueError for tables of another depth."""
        depth, tables = self.rules.shape.depth, [np.array(table, np.float64) for table in state["tables"]]
        if any(table.shape != (depth, depth + 5) for table in tables):
            raise ValueError(f"the running plan is not one for trees of depth {depth}")
        self.tables[:], self.num_taken = tables, int(state["num_taken"])


class PlannedSampler(TreeSampler):
    """A sampler whose trees have the shape that a planner chooses for each step, and whose steps as many problems."""

    def __init__(self, engine: Engine, planner: RunningPlanner, sampling: SamplingParams) -> None:
        super().__init__(engine, planner.rules, sampling)
        self.planner = planner
        self.plan: Plan | None = None
        self.step = 0
        self.num_problems = planner.prompts_per_step
        self._warned: set[str] = set()

    def begin_step(self, step: int) -> dict[str, float]:
        planner = self.planner
        self.plan, self.step, self.num_problems = planner.plan(step), step, planner.prompts_per_step
        if self.plan is None and len(planner.tables) == planner.planned.window:
            self._warn_once(
                "plan",
                f"there is no plan and trees are stars: in fewer than branching.start = {planner.planned.start} of the "
                f"last {planner.planned.window} steps a tree explored; raise branching.explore or branching.window",
            )
        per_tree = planner.tokens_per_tree(self.plan)
        if not per_tree:
            return plan_metrics(self.plan)
        budget, most = planner.planned.tokens_per_step, planner.planned.max_problems(self.num_problems)
        self.num_problems = min(max(round(budget / per_tree), 1), most)
        if self.num_problems != round(budget / per_tree):
            self._warn_once(
                "budget",
                f"branching.tokens_per_step = {budget} pays for {budget / per_tree:.1f} trees of about {per_tree:.0f} "
                f"tokens, and a step has from 1 to {most} problems ({MAX_FACTOR} x train.prompts_per_step)",
            )
        return plan_metrics(self.plan) | {"plan/problems": self.num_problems, "plan/tokens_per_tree": per_tree}

    def _warn_once(self, kind: str, message: str) -> None:
        """Say it in the first step in which it is so."""
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("step %d: %s", self.step, message)

    def problem_range(self, count: int) -> tuple[int, int | None]:
        if not self.planner.planned.tokens_per_step:
            return count, None
        # Steps have different numbers of problems, and none is passed over.
        return self.num_problems, self.planner.num_taken

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

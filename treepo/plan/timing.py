"""How long shapes take: trees grown of a shape, and the seconds per decoded token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from treepo.data.problem import Problem
from treepo.engine.base import Engine, SamplingParams
from treepo.grow import GrowthRules, InitialFork, StagedBranching, TreeSampler
from treepo.tree import Tree


@dataclass(frozen=True, eq=False)
class Stopwatch:
    """Grows trees and takes the time per decoded token."""

    engine: Engine
    sampling: SamplingParams
    seed: int

    def grow(self, problems: Sequence[Problem], rules: GrowthRules) -> tuple[list[Tree], float]:
        """(a tree per problem, seconds per decoded token)."""
        start = perf_counter()
        grown = dict(TreeSampler(self.engine, rules, self.sampling).grow(problems, self.seed))
        trees = [grown[i] for i in range(len(problems))]
        return trees, (perf_counter() - start) / sum(tree.num_decoded() for tree in trees)


def staged(rules: GrowthRules, paths: Sequence[int]) -> GrowthRules:
    """The rules with so many paths per stage."""
    return replace(rules, initial_fork=InitialFork(paths[0], paths[0]), branching=StagedBranching(tuple(paths)))

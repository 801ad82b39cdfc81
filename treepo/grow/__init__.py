"""Growing: from problems to trees."""

from treepo.grow.branching import (
    Branching,
    EvenBranching,
    InitialFork,
    Level,
    LogprobBranching,
    RandomBranching,
    TokenBudgetBranching,
)
from treepo.grow.fallback import Backtrack, Cut, Fallback, Finished, NoFallback
from treepo.grow.growth import GrowthRules
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import PathEnd, Stopping, StopRules

__all__ = [
    "Backtrack",
    "Branching",
    "Cut",
    "EvenBranching",
    "Fallback",
    "Finished",
    "GrowthRules",
    "InitialFork",
    "Level",
    "LogprobBranching",
    "NoFallback",
    "PathEnd",
    "RandomBranching",
    "StopRules",
    "Stopping",
    "TokenBudgetBranching",
    "TreeSampler",
    "TreeShape",
]

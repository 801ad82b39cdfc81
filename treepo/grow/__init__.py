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
from treepo.grow.fallback import Cut, Fallback, Finished, NoFallback, Resume
from treepo.grow.growth import Rules
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import PathEnd, Stopping, StopRules

__all__ = [
    "Branching",
    "Cut",
    "EvenBranching",
    "Fallback",
    "Finished",
    "InitialFork",
    "Level",
    "LogprobBranching",
    "NoFallback",
    "PathEnd",
    "RandomBranching",
    "Resume",
    "Rules",
    "StopRules",
    "Stopping",
    "TokenBudgetBranching",
    "TreeSampler",
    "TreeShape",
]

"""Growing trees of responses to problems."""

from treepo.grow.branching import (
    Branching,
    EvenBranching,
    InitialFork,
    Level,
    LogprobBranching,
    RandomBranching,
    TokenBudgetBranching,
)
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack, BacktrackPoint, Fallback, FinishedPath, NoFallback
from treepo.grow.planned import Planned, StagedBranching
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import PathEnd, Stopping, StopRules

__all__ = [
    "Backtrack",
    "BacktrackPoint",
    "Branching",
    "EvenBranching",
    "Fallback",
    "FinishedPath",
    "GrowthRules",
    "InitialFork",
    "Level",
    "LogprobBranching",
    "NoFallback",
    "PathEnd",
    "Planned",
    "RandomBranching",
    "StagedBranching",
    "StopRules",
    "Stopping",
    "TokenBudgetBranching",
    "TreeSampler",
    "TreeShape",
]

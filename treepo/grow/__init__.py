"""Growing: from problems to trees."""

from treepo.grow.branching import Branching, EvenBranching, InitialFork, Level
from treepo.grow.fallback import Cut, Fallback, Finished, RandomBoundary
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
    "PathEnd",
    "RandomBoundary",
    "Rules",
    "StopRules",
    "Stopping",
    "TreeSampler",
    "TreeShape",
]

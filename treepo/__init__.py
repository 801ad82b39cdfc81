"""TreePO: post-training language models with reinforcement learning on trees of answers."""

from treepo.tree import Node, StopReason, Trajectory, Tree

__version__ = "0.1.0"

__all__ = ["Node", "StopReason", "Trajectory", "Tree", "__version__"]

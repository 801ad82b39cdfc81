"""TreePO: post-training language models with reinforcement learning on trees of answers."""

# Not imported from typing: nothing is imported here before `python -m treepo` has set the path right.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from treepo.tree import Node, StopReason, Trajectory, Tree

__version__ = "0.1.0"

__all__ = ["Node", "StopReason", "Trajectory", "Tree", "__version__"]


def __getattr__(name: str) -> object:
    """Load the types of a tree on first use: `import treepo` alone loads neither numpy nor torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The circle ends here: treepo.tree needs nothing of this module.
    from treepo import tree  # noqa: PLC0415

    return getattr(tree, name)

"""The embedded engine: samples from the very model that is trained."""

from treepo.engine.torch.engine import TorchEngine

__all__ = ["TorchEngine"]

"""Gradient checkpointing: less memory for a second forward."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_activations(model: nn.Module) -> None:
    """Keep each layer's input alone, and compute what lies inside it again in the backward pass.

    Raises ValueError if the model's layers are not made for it.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"train.gradient_checkpointing: {type(model).__name__} has no layers that support it")
    for layer in layers:
        layer.gradient_checkpointing = True
        vars(layer)["_gradient_checkpointing_func"] = partial(checkpoint, use_reentrant=False)
        # Layers look at their own flag; what is inside them goes on without dropout.
        layer.training = True

"""Gradient checkpointing: less memory for a second forward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_activations(model: nn.Module) -> None:
    """Keep each layer's input alone, and compute what lies inside it again in the backward pass.

    Not by transformers' own switch: that works in training mode alone, which turns dropout on, and there also where no
    gradient is asked for, so that sampling would lose its cache. Raises ValueError if the model's layers are not made
    for it.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"train.gradient_checkpointing: {type(model).__name__} has no layers that support it")
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    # While sampling there is nothing to recompute, and no need to note the random state of every layer and step.
    if torch.is_grad_enabled():
        return checkpoint(forward, *inputs, use_reentrant=False, **settings)
    return forward(*inputs, **settings)

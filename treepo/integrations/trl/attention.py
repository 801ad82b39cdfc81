"""An attention of transformers that follows a tree where it is told to, and is the model's own elsewhere.

TRL's trainer forwards a model in both ways: packed in the loss, padded where it generates. Gradient checkpointing runs
a packed forward once more in the backward pass, so the model's attention must not change in between.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from treepo.errors import SettingError
from treepo.model.attention import attend

OWN = ("sdpa", "eager")
"""Attentions of transformers that can stand beside ours."""

Attend = Callable[..., tuple[Tensor, Tensor | None]]


def follow_trees(model: PreTrainedModel) -> None:
    """Let a model's attention follow a tree where `attention_context` is given; raises SettingError if it cannot."""
    own = model.config._attn_implementation
    if own not in OWN:
        message = "attn_implementation must be 'sdpa' or 'eager': packed forwards have an attention of their own"
        raise SettingError("model_init_kwargs", message, own)
    model.set_attn_implementation(register_tree_or(own))


def register_tree_or(own: str) -> str:
    """Register the attention that is ours with a context, and transformers' own without; return its name."""
    name = f"treepo_or_{own}"
    AttentionInterface.register(name, partial(_attend_tree_or, own))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[own])
    return name


def _attend_tree_or(own: str, module: nn.Module, *args: Any, **settings: Any) -> tuple[Tensor, Tensor | None]:
    if settings.get("attention_context") is not None:
        return attend(module, *args, **settings)
    # Each model's file has an eager attention of its own.
    eager: Attend = getattr(sys.modules[type(module).__module__], "eager_attention_forward", attend)
    return ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)(module, *args, **settings)


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Another attention for a while, in which nothing is computed that a backward pass computes again."""
    before = str(model.config._attn_implementation)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)

"""Trying a model on a few tokens: which, and in which type.

Letters: N tokens · V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treepo.model.attention import TreeAttention

PROBE_LEN = 24

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.2}
"""Difference of log-probabilities between engines and the trainer that rounding explains."""


def probe_ids(model: PreTrainedModel) -> Tensor:
    """Return a fixed sequence of different tokens, [PROBE_LEN] where the vocabulary allows."""
    ids = (torch.arange(PROBE_LEN) * 7919 + 3) % vocabulary_size(model)
    return ids.to(model.device)


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return the number of tokens that the model has an embedding for."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding.weight, Tensor)
    return embedding.weight.shape[0]


def rms(values: Tensor) -> Tensor:
    """[N, V] -> [N]."""
    return values.square().mean(-1).sqrt()


@contextmanager
def in_type(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let the model compute in another type, with each module's own weights converted only while it runs.

    A copy of all of them might not fit into memory.
    """
    narrow: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}

    def widen(module: nn.Module, _: object) -> None:
        floats = [p for p in module.parameters(recurse=False) if p.is_floating_point()]
        narrow[module] = [(p, p.data) for p in floats]
        for parameter in floats:
            parameter.data = parameter.data.to(dtype)

    def restore(module: nn.Module, *_: object) -> None:
        for parameter, values in narrow.pop(module, []):
            parameter.data = values

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(widen))
        handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(narrow):
            restore(module)


@torch.no_grad()
def sequence_logprobs(
    model: PreTrainedModel, ids: Tensor, temperature: float, supports_tree_attention: bool = True
) -> Tensor:
    """Return float32 [n, V]: log-probabilities of what follows each token of a sequence [n], at a temperature."""
    return torch.log_softmax(model(**one_sequence(ids, supports_tree_attention)).logits[0].float() / temperature, -1)


def one_sequence(ids: Tensor, supports_tree_attention: bool) -> dict[str, Any]:
    """Inputs of a forward over a sequence [n]."""
    inputs: dict[str, Any] = {"input_ids": ids[None], "use_cache": False}
    if supports_tree_attention:
        positions = torch.arange(len(ids), device=ids.device)
        inputs["position_ids"] = positions[None]
        inputs["attention_context"] = TreeAttention([0, len(ids)], torch.full_like(ids, len(ids)), positions)
    return inputs

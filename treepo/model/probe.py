"""Trying a model on a few tokens: which, and in which type.

Letters: N tokens · V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PROBE_LEN = 24


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

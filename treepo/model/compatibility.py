"""Checks that packed trees give a model's own logits, and what is known about a model's attention and sizes.

The engine calls the same attention function with other contexts; beyond this check it needs each layer to call its
attention once.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from treepo.errors import SettingError, UnsupportedAttentionError
from treepo.model.attention import ATTENTION_NAME, AttentionContext, TreeAttention, tree_attention

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
UNSUPPORTED_SETTINGS = ("attn_logit_softcapping", "keep_window_size")
"""Settings of attention that transformers does not pass to the attention function."""

LENGTH_DEPENDENT_ROPE = {"longrope", "dynamic"}
"""Kinds of rotary positions that change with the length of the sequence."""

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.2}
"""Difference of log-probabilities that rounding explains; a wrong attention is off by several."""

PROBE_LEN = 24


def check_config(config: PreTrainedConfig) -> None:
    """Raise UnsupportedAttentionError if a model has other layers than plain or windowed attention."""
    text = config.get_text_config()
    kind = config.model_type
    other = set(getattr(text, "layer_types", None) or ()) - SUPPORTED_LAYERS
    if other:
        raise UnsupportedAttentionError(f"{kind!r} has layers of type {sorted(other)}, which cannot be packed")
    for name in UNSUPPORTED_SETTINGS:
        if getattr(text, name, None) is not None:
            raise UnsupportedAttentionError(f"{kind!r} has attention with {name}, which cannot be packed")


def has_length_dependent_rope(config: PreTrainedConfig) -> bool:
    """Whether the rotary positions change with the length of the sequence."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type") in LENGTH_DEPENDENT_ROPE for kind in kinds)


def max_exact_len(config: PreTrainedConfig) -> int | None:
    """Return the most tokens of a sequence that the model was made for and that are served exactly; None if it does not
    say."""
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if not has_length_dependent_rope(config):
        return longest
    name = "original_max_position_embeddings"
    return getattr(text, name, None) or text.rope_parameters.get(name, longest)


@torch.no_grad()
def check_logits_match(model: PreTrainedModel, reference: str = "eager") -> None:
    """Raise UnsupportedAttentionError unless a packed tree has the log-probabilities of plain forwards.

    The tree is a sequence with one fork. model: with the attention of `treepo.model.attention`. reference: the
    attention of transformers to compare with.
    """
    kind = model.config.model_type
    ids = probe_ids(model)
    fork, end = PROBE_LEN // 2, PROBE_LEN
    other = torch.cat([ids[:fork], ids[fork:].flip(0)])
    total = 2 * end - fork
    subtree_ends = torch.full((total,), total)
    subtree_ends[fork:end] = end
    positions = torch.cat([torch.arange(end), torch.arange(fork, end)])
    if ids.device.type == "cpu":
        inner = tree_attention([0, total], subtree_ends.numpy(), positions.numpy(), ids.device, model.dtype)
    else:
        # The attention of training would be compiled for this alone.
        inner = TreeAttention([0, total], subtree_ends.to(ids.device), positions.to(ids.device))
    context = _RecordingAttention(inner)
    logits = model(
        input_ids=torch.cat([ids, other[fork:]])[None],
        position_ids=positions.to(ids.device)[None],
        use_cache=False,
        attention_context=context,
    ).logits[0]
    packed = torch.log_softmax(logits.float(), -1)
    model.set_attn_implementation(reference)
    try:
        plain = [sequence_logprobs(model, sequence, 1.0, supports_tree_attention=False) for sequence in (ids, other)]
    finally:
        model.set_attn_implementation(ATTENTION_NAME)
    wanted = torch.cat([plain[0], plain[1][fork:]])
    if not torch.isfinite(wanted).all():
        raise SettingError("model.path", f"the logits of {kind!r} are not finite")
    # Weighed by probability: narrow types are inexact about tokens that hardly ever follow.
    if (wanted.exp() * (packed - wanted).abs()).sum(-1).max() > TOLERANCE[model.dtype]:
        message = f"{kind!r} computes something else than causal attention, which cannot be packed"
        raise UnsupportedAttentionError(message)
    _check_window(model, context)


@torch.no_grad()
def has_plain_head(model: PreTrainedModel, supports_tree_attention: bool = True) -> bool:
    """Return whether logits are the output embeddings applied to the last hidden states, with nothing after that."""
    head = model.get_output_embeddings()
    if head is None:
        return False
    inputs = _one_sequence(probe_ids(model), supports_tree_attention)
    hidden = getattr(model.base_model(**inputs), "last_hidden_state", None)
    return hidden is not None and torch.allclose(head(hidden), model(**inputs).logits, rtol=1e-2, atol=1e-4)


@torch.no_grad()
def sequence_logprobs(
    model: PreTrainedModel, ids: Tensor, temperature: float, supports_tree_attention: bool = True
) -> Tensor:
    """Return float32 [n, V]: log-probabilities of what follows each token of a sequence [n], at a temperature."""
    return torch.log_softmax(model(**_one_sequence(ids, supports_tree_attention)).logits[0].float() / temperature, -1)


def _one_sequence(ids: Tensor, supports_tree_attention: bool) -> dict[str, Any]:
    """Inputs of a forward over a sequence [n]."""
    inputs: dict[str, Any] = {"input_ids": ids[None], "use_cache": False}
    if supports_tree_attention:
        positions = torch.arange(len(ids), device=ids.device)
        inputs["position_ids"] = positions[None]
        inputs["attention_context"] = TreeAttention([0, len(ids)], torch.full_like(ids, len(ids)), positions)
    return inputs


def probe_ids(model: PreTrainedModel) -> Tensor:
    """Return a fixed sequence of different tokens, [PROBE_LEN] where the vocabulary allows."""
    ids = (torch.arange(PROBE_LEN) * 7919 + 3) % vocabulary_size(model)
    return ids.to(model.device)


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return the number of tokens that the model has an embedding for."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding.weight, Tensor)
    return embedding.weight.shape[0]


def _check_window(model: PreTrainedModel, context: "_RecordingAttention") -> None:
    """Raise UnsupportedAttentionError if the attention function was not given the model's sliding window."""
    text = model.config.get_text_config()
    window, longest = getattr(text, "sliding_window", None), getattr(text, "max_position_embeddings", None)
    uses_window = isinstance(window, int) and getattr(text, "use_sliding_window", True)
    has_windows = "sliding_attention" in (getattr(text, "layer_types", None) or ["sliding_attention"])
    if uses_window and (longest is None or window < longest) and has_windows and context.windows == {None}:
        kind = model.config.model_type
        raise UnsupportedAttentionError(f"{kind!r} keeps its sliding window to itself and cannot be packed")


class _RecordingAttention:
    """Attention that records the windows and layers it is called with."""

    def __init__(self, inner: AttentionContext) -> None:
        self.inner = inner
        self.windows: set[int | None] = set()
        self.layers: set[int] = set()

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        if layer in self.layers:
            raise UnsupportedAttentionError("a layer calls its attention twice, which the engine's cache cannot serve")
        self.layers.add(layer)
        self.windows.add(window)
        return self.inner(layer, query, key, value, scale, window)

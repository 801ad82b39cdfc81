"""The engine's forward: logits of tokens side by side, by transformers or, for some models, in fewer operations.

Letters: N tokens · M logits wanted · H query heads · G key-value heads · D head size · V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, silu

from treepo.model.attention import AttentionContext
from treepo.model.fsdp import own_class

Forward = Callable[[Tensor, Tensor, AttentionContext, Tensor], Tensor]
"""(ids int64 [N], positions int64 [N], context, which tokens' logits int64 [M]) -> logits [M, V]."""

FUSED_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose decoder is the one that FusedForward computes, with SiLU in its MLP."""


def supports_fused(model: Any) -> bool:
    """Return whether FusedForward computes what this model does: transformers' own code for one of FUSED_TYPES, with
    plain linear maps (the model's own forward runs adapters and quantised layers)."""
    if model.config.model_type not in FUSED_TYPES or not own_class(model).__module__.startswith("transformers.models."):
        return False
    maps = [m for layer in model.model.layers for name, m in layer.named_modules() if name.endswith("_proj")]
    return model.config.hidden_act == "silu" and all(type(m) is nn.Linear for m in maps)


class PlainForward:
    """The model's own forward."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, ids: Tensor, positions: Tensor, context: AttentionContext, logits_at: Tensor) -> Tensor:
        return self.model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=logits_at,
            attention_context=context,
        ).logits[0]


class AutocastForward:
    """Another forward with its matrix products in a narrower type."""

    def __init__(self, forward: Forward, dtype: torch.dtype) -> None:
        self.forward = forward
        self.dtype = dtype

    def __call__(self, ids: Tensor, positions: Tensor, context: AttentionContext, logits_at: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, self.dtype):
            return self.forward(ids, positions, context, logits_at)


class Operations(Protocol):
    """The operations between a decoder's matrix products; arguments may be overwritten."""

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """x += added; returns x / rms(x) x weight over the last dimension."""
        ...

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """x [N, H, D] cos + (x with its halves exchanged) sin, in place; cos and signed sin [N, D]."""
        ...

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) x up."""
        ...


class TorchOperations:
    """Operations in torch, on any device, in any type."""

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        if added is not None:
            x += added
        return rms_norm(x, weight.shape, weight, eps)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        exchanged = x.roll(x.shape[-1] // 2, -1)
        x.mul_(cos[:, None]).addcmul_(exchanged, sin[:, None])

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return silu(gate).mul_(up)


class FusedForward:
    """Llama's decoder in as few operations as possible, without gradients.

    With small models most of a decoding step would otherwise go into calling modules. It computes with the model's own
    parameters, so nothing is copied when they change; tests compare it with transformers' forward for each of
    FUSED_TYPES.
    """

    def __init__(self, model: Any, operations: Operations) -> None:
        self.model = model
        self.operations = operations
        self.layers = [_Layer.of(layer) for layer in model.model.layers]
        self.cos = self.sin = torch.empty(0)

    def __call__(self, ids: Tensor, positions: Tensor, context: AttentionContext, logits_at: Tensor) -> Tensor:
        decoder, add_norm = self.model.model, self.operations.add_norm
        cos, sin = self._rotations(positions)
        hidden, added = embedding(ids, decoder.embed_tokens.weight), None
        for index, layer in enumerate(self.layers):
            added = self._attention(index, layer, add_norm(hidden, added, *layer.first_norm), cos, sin, context)
            normed = add_norm(hidden, added, *layer.second_norm)
            added = linear(self.operations.gate(linear(normed, *layer.gate), linear(normed, *layer.up)), *layer.down)
        assert added is not None, "a decoder has layers"
        normed = add_norm(hidden[logits_at], added[logits_at], *_norm(decoder.norm))
        return linear(normed, self.model.lm_head.weight)

    def _attention(
        self, index: int, layer: "_Layer", hidden: Tensor, cos: Tensor, sin: Tensor, context: AttentionContext
    ) -> Tensor:
        shape = len(hidden), -1, layer.head_size
        query, key, value = (linear(hidden, *p).view(shape) for p in (layer.query, layer.key, layer.value))
        if layer.query_norm and layer.key_norm:
            query = self.operations.add_norm(query, None, *layer.query_norm)
            key = self.operations.add_norm(key, None, *layer.key_norm)
        self.operations.rotate(query, cos, sin)
        self.operations.rotate(key, cos, sin)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        output = context(index, query, key, value, layer.scale, layer.window)
        return linear(output.reshape(len(hidden), -1), *layer.output)

    def _rotations(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of the positions, [N, D], from a table that grows by doubling."""
        needed = int(positions.max()) + 1
        if needed > len(self.cos):
            every = torch.arange(max(needed, 2 * len(self.cos)), device=positions.device)
            weight = self.model.model.embed_tokens.weight
            cos, sin = self.model.model.rotary_emb(weight[:1, None], every[None])
            half = sin.shape[-1] // 2
            self.cos, self.sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        return self.cos[positions], self.sin[positions]


Projection = tuple[Tensor, Tensor | None]
"""Weight and bias of a linear map."""

Norm = tuple[Tensor, float]
"""Weight and eps of an RMS norm."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """The parameters and settings of one decoder layer."""

    query: Projection
    key: Projection
    value: Projection
    output: Projection
    gate: Projection
    up: Projection
    down: Projection
    first_norm: Norm
    second_norm: Norm
    query_norm: Norm | None
    key_norm: Norm | None
    head_size: int
    scale: float
    window: int | None

    @classmethod
    def of(cls, layer: Any) -> "_Layer":
        attention, mlp = layer.self_attn, layer.mlp
        has_norms = hasattr(attention, "q_norm")
        return cls(
            query=_projection(attention.q_proj),
            key=_projection(attention.k_proj),
            value=_projection(attention.v_proj),
            output=_projection(attention.o_proj),
            gate=_projection(mlp.gate_proj),
            up=_projection(mlp.up_proj),
            down=_projection(mlp.down_proj),
            first_norm=_norm(layer.input_layernorm),
            second_norm=_norm(layer.post_attention_layernorm),
            query_norm=_norm(attention.q_norm) if has_norms else None,
            key_norm=_norm(attention.k_norm) if has_norms else None,
            head_size=attention.head_dim,
            scale=attention.scaling,
            window=_window(attention),
        )


def _projection(module: Any) -> Projection:
    return module.weight, module.bias


def _norm(module: Any) -> Norm:
    return module.weight, module.variance_epsilon


def _window(attention: Any) -> int | None:
    """The sliding window of a layer: its own setting, or (Mistral) the model's."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    return getattr(attention.config, "sliding_window", None)

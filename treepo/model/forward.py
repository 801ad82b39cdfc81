"""The engine's forward: logits of tokens side by side, by transformers or, for some models, in fewer operations.

Letters: N tokens · M logits wanted · H query heads · G key-value heads · D head size · V vocabulary.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, silu

from treepo.model.fsdp import own_class

if TYPE_CHECKING:
    from treepo.model.attention import AttentionContext

Forward = Callable[[Tensor, Tensor, "AttentionContext", Tensor], Tensor]
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

    def __call__(self, ids: Tensor, positions: Tensor, context: "AttentionContext", logits_at: Tensor) -> Tensor:
        return self.model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=logits_at,
            attention_context=context,
        ).logits[0]


class TorchOperations:
    """The operations between a decoder's matrix products, on any device, in any type; arguments may be overwritten."""

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """x += added; returns x / rms(x) x weight over the last dimension."""
        if added is not None:
            x += added
        return rms_norm(x, weight.shape, weight, eps)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """x [N, H, D] cos + (x with its halves exchanged) sin, in place; cos and signed sin [N, D]."""
        exchanged = x.roll(x.shape[-1] // 2, -1)
        x.mul_(cos[:, None]).addcmul_(exchanged, sin[:, None])

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) x up."""
        return silu(gate).mul_(up)


class FusedForward:
    """Llama's decoder in as few operations as possible, without gradients.

    With small models most of a decoding step would otherwise go into calling modules. It computes with the model's own
    parameters, so nothing is copied when they change; tests compare it with transformers' forward for each of
    FUSED_TYPES.
    """

    def __init__(self, model: Any, operations: TorchOperations) -> None:
        self.model = model
        self.operations = operations
        # Mistral's layers have no window of their own but the model's, which others ignore.
        window = model.config.sliding_window if model.config.model_type == "mistral" else None
        self.layers = [_parameters(layer, window) for layer in model.model.layers]
        self.cos = self.sin = torch.empty(0)

    def __call__(self, ids: Tensor, positions: Tensor, context: "AttentionContext", logits_at: Tensor) -> Tensor:
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
        self, index: int, layer: SimpleNamespace, hidden: Tensor, cos: Tensor, sin: Tensor, context: "AttentionContext"
    ) -> Tensor:
        shape = len(hidden), -1, layer.head_size
        query, key, value = (linear(hidden, *p).view(shape) for p in (layer.q, layer.k, layer.v))
        if layer.q_norm:
            query = self.operations.add_norm(query, None, *layer.q_norm)
            key = self.operations.add_norm(key, None, *layer.k_norm)
        self.operations.rotate(query, cos, sin)
        self.operations.rotate(key, cos, sin)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        output = context(index, query, key, value, layer.scale, layer.window)
        return linear(output.reshape(len(hidden), -1), *layer.o)

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


def _parameters(layer: Any, window: int | None) -> SimpleNamespace:
    """The parameters and settings of a decoder layer: (weight, bias) of linear maps, (weight, eps) of norms.

    window: that of layers that have none of their own.
    """
    attention, mlp = layer.self_attn, layer.mlp
    maps = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    maps |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    return SimpleNamespace(
        **{name: (module.weight, module.bias) for name, module in maps.items()},
        first_norm=_norm(layer.input_layernorm),
        second_norm=_norm(layer.post_attention_layernorm),
        q_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        k_norm=_norm(attention.k_norm) if hasattr(attention, "q_norm") else None,
        head_size=attention.head_dim,
        scale=attention.scaling,
        window=getattr(attention, "sliding_window", window),
    )


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight, module.variance_epsilon

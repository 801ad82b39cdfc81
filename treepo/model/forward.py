"""The engine's forward: logits of tokens side by side, by transformers or, for some models, in fewer operations.

Letters: N tokens · M logits wanted · H query heads · G key-value heads · D head size · V vocabulary.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import embedding, rms_norm, silu

from treepo.model.linear_maps import LinearMaps, is_fusable, num_copied_bytes

if TYPE_CHECKING:
    from treepo.model.attention import AttentionContext


class Forward(Protocol):
    """The logits of some of the tokens that lie side by side."""

    @property
    def num_copied_bytes(self) -> int:
        """Memory of the weights that it copies."""
        ...

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        context: "AttentionContext",
        logits_at: Tensor,
        num_positions: int | None = None,
    ) -> Tensor:
        """ids, positions int64 [N], which tokens' logits int64 [M] -> logits [M, V].

        num_positions: all positions are below it; otherwise it is read from the device, for which the host waits.
        """
        ...

    def release(self) -> None:
        """Forget what was copied of the weights, which change; the next call copies them again."""
        ...


FUSED_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose decoder is the one that FusedForward computes, with SiLU in its MLP."""


def supports_fused(model: Any) -> bool:
    """Return whether FusedForward computes what this model does: transformers' own code for one of FUSED_TYPES, with
    plain linear maps or low-rank adapters of them. The model's own forward runs other adapters and quantised layers.
    """
    if model.config.model_type not in FUSED_TYPES or not _own_class(model).__module__.startswith(
        "transformers.models."
    ):
        return False
    # peft puts a wrapper in the place of a module that is trained whole beside adapters.
    if model.config.hidden_act != "silu" or any(hasattr(m, "modules_to_save") for m in model.modules()):
        return False
    return all(is_fusable(m) for m in _linear_modules(model))


def _own_class(module: nn.Module) -> type:
    """Return the class of a module before sharding, which puts a class of FSDP in front."""
    kind = type(module)
    return kind.__mro__[2] if issubclass(kind, FSDPModule) else kind


def _linear_modules(model: Any) -> list[nn.Module]:
    return [m for layer in model.model.layers for name, m in layer.named_modules() if name.endswith("_proj")]


LENGTH_DEPENDENT_ROPE = {"longrope", "dynamic"}
"""Kinds of rotary positions that change with the length of the sequence."""


def has_length_dependent_rope(config: Any) -> bool:
    """Whether the rotary positions change with the length of the sequence."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type") in LENGTH_DEPENDENT_ROPE for kind in kinds)


class PlainForward:
    """The model's own forward. autocast: type of its matrix products; that of the weights if not given."""

    num_copied_bytes = 0

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.autocast = autocast

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        context: "AttentionContext",
        logits_at: Tensor,
        num_positions: int | None = None,
    ) -> Tensor:
        with torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None):
            return self.model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=logits_at,
                attention_context=context,
            ).logits[0]

    def release(self) -> None:
        pass


class TorchOperations:
    """The operations between a decoder's matrix products, on any device, in any type; arguments may be overwritten.

    dtype: type of hidden states, queries, keys and values; that of the weights and of the products if None.
    """

    dtype: torch.dtype | None = None

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """x += added; returns x / rms(x) x weight over the last dimension, in a type."""
        if added is not None:
            x += added
        return rms_norm(x.to(weight.dtype), weight.shape, weight, eps).to(dtype)

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> None:
        """x cos + (x with its halves exchanged) sin, in place, of queries [N, H, D] and keys [N, G, D]; cos and signed
        sin [N, D]."""
        for x in (query, key):
            exchanged = x.roll(x.shape[-1] // 2, -1)
            x.mul_(cos[:, None]).addcmul_(exchanged, sin[:, None])

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) x up, [N, D]; both may be parts of wider rows."""
        return silu(gate).mul_(up)


class FusedForward:
    """Llama's decoder in as few operations as possible, without gradients.

    With small models most of a decoding step would otherwise go into calling modules. It computes with the model's own
    parameters where they have the type of the products; tests compare it with transformers' forward for each of
    FUSED_TYPES. dtype: of the matrix products; that of the weights if not given.
    """

    def __init__(self, model: Any, operations: TorchOperations, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.operations = operations
        self.dtype = dtype or model.model.embed_tokens.weight.dtype
        self.layers: list[SimpleNamespace] = []
        self.cos = self.sin = torch.empty(0)

    @property
    def num_copied_bytes(self) -> int:
        return num_copied_bytes([*_linear_modules(self.model), self.model.lm_head], self.dtype)

    def release(self) -> None:
        self.layers = []

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        context: "AttentionContext",
        logits_at: Tensor,
        num_positions: int | None = None,
    ) -> Tensor:
        self.prepare(int(positions.max()) + 1 if num_positions is None else num_positions)
        add_norm, dtype = self.operations.add_norm, self.dtype
        cos, sin = self.cos[positions], self.sin[positions]
        hidden, added = self._inner(embedding(ids, self.model.model.embed_tokens.weight)), None
        for index, layer in enumerate(self.layers):
            normed = add_norm(hidden, added, *layer.first_norm, dtype=dtype)
            added = self._attention(index, layer, normed, cos, sin, context)
            normed = add_norm(hidden, added, *layer.second_norm, dtype=dtype)
            [added] = layer.down(self.operations.gate(*layer.gate_up(normed)))
        assert added is not None, "a decoder has layers"
        [logits] = self.head(add_norm(hidden[logits_at], added[logits_at], *self.norm, dtype=dtype))
        return logits

    def prepare(self, num_positions: int) -> None:
        """Copy weights that have another type, and let the tables of rotations, which grow by doubling, have at least
        so many positions."""
        if not self.layers:
            self._take_weights()
        if num_positions > len(self.cos):
            weight = self.model.model.embed_tokens.weight
            every = torch.arange(max(num_positions, 2 * len(self.cos)), device=weight.device)
            cos, sin = self.model.model.rotary_emb(self._inner(weight[:1, None]), every[None])
            half = sin.shape[-1] // 2
            # Cosines and signed sines, [positions, D].
            self.cos, self.sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)

    def _take_weights(self) -> None:
        decoder = self.model.model
        # Mistral's layers have no window of their own but the model's, which others ignore.
        window = self.model.config.sliding_window if self.model.config.model_type == "mistral" else None
        with torch.no_grad():
            self.layers = [self._parameters(layer, window) for layer in decoder.layers]
            self.head, self.norm = LinearMaps([self.model.lm_head], self.dtype), self._norm(decoder.norm)

    def _parameters(self, layer: Any, window: int | None) -> SimpleNamespace:
        """The linear maps of a decoder layer, its norms as (weight, eps), and its settings.

        window: that of layers that have none of their own.
        """
        attention, mlp = layer.self_attn, layer.mlp
        return SimpleNamespace(
            qkv=LinearMaps([attention.q_proj, attention.k_proj, attention.v_proj], self.dtype),
            o=LinearMaps([attention.o_proj], self.dtype),
            gate_up=LinearMaps([mlp.gate_proj, mlp.up_proj], self.dtype),
            down=LinearMaps([mlp.down_proj], self.dtype),
            first_norm=self._norm(layer.input_layernorm),
            second_norm=self._norm(layer.post_attention_layernorm),
            q_norm=self._norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
            k_norm=self._norm(attention.k_norm) if hasattr(attention, "q_norm") else None,
            head_size=attention.head_dim,
            scale=attention.scaling,
            window=getattr(attention, "sliding_window", window),
        )

    def _norm(self, module: Any) -> tuple[Tensor, float]:
        return self._inner(module.weight), module.variance_epsilon

    def _inner(self, x: Tensor) -> Tensor:
        """In the type that lies between matrix products, and as its operations need it."""
        return x if self.operations.dtype is None else x.to(self.operations.dtype).contiguous()

    def _attention(
        self, index: int, layer: SimpleNamespace, hidden: Tensor, cos: Tensor, sin: Tensor, context: "AttentionContext"
    ) -> Tensor:
        shape = len(hidden), -1, layer.head_size
        query, key, value = (self._inner(x).view(shape) for x in layer.qkv(hidden))
        if layer.q_norm:
            query = self.operations.add_norm(query, None, *layer.q_norm, dtype=query.dtype)
            key = self.operations.add_norm(key, None, *layer.k_norm, dtype=key.dtype)
        self.operations.rotate(query, key, cos, sin)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        output = context(index, query, key, value, layer.scale, layer.window)
        [output] = layer.o(output.reshape(len(hidden), -1).to(self.dtype))
        return output

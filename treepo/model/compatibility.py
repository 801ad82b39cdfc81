"""Checks that packed trees give a model's own logits, and what is known about a model's attention and sizes.

The engine calls the same attention function with other contexts; beyond this check it needs each layer to call its
attention once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from treepo.errors import SettingError, UnsupportedAttentionError
from treepo.model.attention import ATTENTION_NAME, AttentionContext, TreeAttention, tree_attention
from treepo.model.forward import has_length_dependent_rope
from treepo.model.fsdp import run_under_fsdp
from treepo.model.probe import in_type, one_sequence, probe_ids, rms

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
UNSUPPORTED_SETTINGS = ("attn_logit_softcapping", "keep_window_size")
"""Settings of attention that transformers does not pass to the attention function."""

ROUTER_SETTINGS = (
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "aux_loss_alpha",
    "moe_loss_weight",
    "router_jitter_noise",
    "input_jitter_noise",
)
"""Auxiliary losses and noise of mixtures of experts."""


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


def training_settings_ignored(config: PreTrainedConfig) -> list[str]:
    """Return the settings of dropout, noise and auxiliary losses that are in use in a model's own training, as
    name = value.

    Ratios of probabilities need the same model while sampling and training, so dropout and noise are off; losses of a
    mixture of experts' router are no part of the losses here.
    """
    values = config.get_text_config().to_dict()
    # Some keep those of the attention and of the experts in settings of their own.
    for part in [value for value in values.values() if isinstance(value, dict)]:
        values = {name: value for name, value in part.items() if isinstance(name, str)} | values
    # Those of classifiers and summaries are for other heads.
    names = [n for n in sorted(values) if "drop" in n and not n.startswith(("classifier", "summary"))]
    names += [n for n in ROUTER_SETTINGS if n in values]
    return [f"{n} = {values[n]:g}" for n in names if isinstance(values[n], int | float) and values[n] > 0]


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
    """Raise UnsupportedAttentionError unless a packed tree has the logits of plain forwards.

    The tree is a sequence with one fork. It is computed twice: in float64 (float32 where that fails), where a wrong
    attention shows however small its effect on the logits is; and in the model's own type, where it may be no further
    from float64 than the model's own forward is. model: with the attention of `treepo.model.attention`. reference: the
    attention of transformers to compare with.
    """
    kind = model.config.model_type
    probe, wide = _ForkProbe.of(model), torch.float64
    try:
        packed, plain, other, context = probe.wide_logits(model, reference, wide)
    # Mixtures of experts have operations for narrower types alone, some devices none for float64.
    except (RuntimeError, TypeError):
        wide = torch.float32
        packed, plain, other, context = probe.wide_logits(model, reference, wide)
    own_packed, _ = probe.packed_logits(model, model.dtype)
    own_plain = probe.plain_logits(model, reference)
    for logits, in_dtype in ((plain, ""), (own_plain, f" in {str(model.dtype)[6:]} (model.dtype)")):
        if not torch.isfinite(logits).all():
            raise SettingError("model.path", f"the logits of {kind!r} are not finite{in_dtype}")
    scale = rms(plain - plain.mean(-1, keepdim=True)).max()
    # How much the first token matters to those after it, and so what a wrong attention would change.
    effect = rms(other - plain)[1:].max()
    # Norms and softmax round to float32 whatever the type.
    if rms(packed - plain).max() > 1e-3 * effect + 1e-5 * scale:
        message = f"{kind!r} computes something else than causal attention, which cannot be packed"
        raise UnsupportedAttentionError(message)
    # Not the largest: in a mixture of experts rounding may choose other experts for a token.
    ours, own = (rms(logits - plain).quantile(0.75) for logits in (own_packed, own_plain))
    if model.dtype != wide and ours > 4 * own + 4 * torch.finfo(model.dtype).eps * scale:
        message = f"{kind!r} in {str(model.dtype)[6:]} differs from its own attention by more than rounding"
        raise UnsupportedAttentionError(message)
    _check_window(model, context, probe, reference)


@dataclass(frozen=True)
class _ForkProbe:
    """A sequence ids [PROBE_LEN] and another one that leaves it halfway, to be computed packed and one by one."""

    ids: Tensor
    other: Tensor
    fork: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "_ForkProbe":
        ids = probe_ids(model)
        fork = len(ids) // 2
        return cls(ids, torch.cat([ids[:fork], ids[fork:].flip(0)]), fork)

    def wide_logits(
        self, model: PreTrainedModel, reference: str, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, "_RecordingAttention"]:
        """In a wide type: (packed, one by one, one by one with another first token, context of the packed ones)."""
        with in_type(model, dtype):
            packed, context = self.packed_logits(model, dtype)
            plain = self.plain_logits(model, reference)
            return packed, plain, self.plain_logits(model, reference, first_token=self.ids[1]), context

    def packed_logits(self, model: PreTrainedModel, dtype: torch.dtype) -> tuple[Tensor, "_RecordingAttention"]:
        """float64 [tokens of the tree, V] of a model that computes in a type, with the attention context, which has
        seen every layer's window."""
        end, total = len(self.ids), 2 * len(self.ids) - self.fork
        ends = torch.full((total,), total)
        ends[self.fork : end] = end
        positions = torch.cat([torch.arange(end), torch.arange(self.fork, end)])
        device = self.ids.device
        if device.type == "cpu":
            inner = tree_attention([0, total], ends.numpy(), positions.numpy(), device, dtype)
        else:
            # On a GPU the attention of training would be compiled for this alone.
            inner = TreeAttention([0, total], ends.to(device), positions.to(device))
        context = _RecordingAttention(inner)
        logits = model(
            input_ids=torch.cat([self.ids, self.other[self.fork :]])[None],
            position_ids=positions.to(device)[None],
            use_cache=False,
            attention_context=context,
        ).logits[0]
        if not context.layers:
            raise UnsupportedAttentionError("attention_context did not reach the attention, which packing needs")
        return logits.double(), context

    def plain_logits(self, model: PreTrainedModel, reference: str, first_token: Tensor | None = None) -> Tensor:
        """float64 [tokens of the tree, V] from the model's own forwards. first_token: another one than the probe's."""
        found = []
        model.set_attn_implementation(reference)
        try:
            for sequence in (self.ids, self.other):
                ids = sequence if first_token is None else torch.cat([first_token[None], sequence[1:]])
                found.append(model(input_ids=ids[None], use_cache=False).logits[0].double())
        finally:
            model.set_attn_implementation(ATTENTION_NAME)
        return torch.cat([found[0], found[1][self.fork :]])


@torch.no_grad()
def has_plain_head(model: PreTrainedModel, supports_tree_attention: bool = True) -> bool:
    """Return whether logits are the output embeddings applied to the last hidden states, with nothing after that.

    The output embeddings are made to return large numbers of a test: what caps or scales them shows, however small the
    model's own logits are.
    """
    head = model.get_output_embeddings()
    if head is None:
        return False
    inputs = one_sequence(probe_ids(model), supports_tree_attention)
    hidden = run_under_fsdp(model, lambda: getattr(model.base_model(**inputs), "last_hidden_state", None))
    seen: list[Tensor] = []

    def replace_output(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(given[0])
        return torch.linspace(-200, 200, output.numel(), dtype=output.dtype, device=output.device).view_as(output)

    handle = head.register_forward_hook(replace_output)
    try:
        logits = model(**inputs).logits
    finally:
        handle.remove()
    if hidden is None or len(seen) != 1 or not torch.equal(seen[0], hidden):
        return False
    expected = torch.linspace(-200, 200, logits.numel(), dtype=hidden.dtype, device=logits.device).view_as(logits)
    return torch.equal(logits, expected.to(logits.dtype))


def _check_window(model: PreTrainedModel, context: "_RecordingAttention", probe: _ForkProbe, reference: str) -> None:
    """Raise UnsupportedAttentionError if a sliding window shortens the attention that does not reach its function.

    A window in the settings of a model that makes no use of it changes nothing.
    """
    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if not isinstance(window, int) or context.windows != {None}:
        return
    before = probe.plain_logits(model, reference)
    text.sliding_window = 2
    try:
        after = probe.plain_logits(model, reference)
    finally:
        text.sliding_window = window
    if not torch.equal(before, after):
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

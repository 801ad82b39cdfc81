"""Checks that what a model predicts after a token does not depend on later tokens.

One that sees them would be trained towards answers that it reads, whether trees are packed or not. Causality belongs to
the code and the settings of a model, so it is checked without regard to how large its weights are.
"""

from contextlib import suppress

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from treepo.errors import SettingError
from treepo.model.attention import ATTENTION_NAME
from treepo.model.probe import in_type, probe_ids, rms

MASKS_NAME = "treepo_masks"


@torch.no_grad()
def check_causal(model: PreTrainedModel) -> None:
    """Raise SettingError for model.path if a model's predictions depend on later tokens.

    Where transformers lets the attention be exchanged, the masks of the model's own attention are looked at. A model
    that is not given the attention of `treepo.model.attention`, which sees nothing later, is tried on changed tokens,
    too.
    """
    has_masks = model._supports_attention_backend
    is_ours = has_masks and model.config._attn_implementation == ATTENTION_NAME
    if (has_masks and not _has_causal_masks(model)) or (not is_ours and _reacts_to_later_tokens(model)):
        message = f"{model.config.model_type!r} is no causal language model: its predictions depend on later tokens"
        raise SettingError("model.path", message)


def _has_causal_masks(model: PreTrainedModel) -> bool:
    """Whether no attention of the model is given a mask that shows it a later token."""
    masks: list[Tensor | None] = []
    AttentionInterface.register(MASKS_NAME, _record_mask)
    AttentionMaskInterface.register(MASKS_NAME, eager_mask)
    own = model.config._attn_implementation or "eager"
    model.set_attn_implementation(MASKS_NAME)
    try:
        model(input_ids=probe_ids(model)[None], use_cache=False, recorded_masks=masks)
    finally:
        model.set_attn_implementation(own)
    return all(mask is not None and not _is_visible(mask).triu(1).any() for mask in masks)


def _record_mask(
    _module: nn.Module,
    query: Tensor,
    _key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    recorded_masks: list[Tensor | None] | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of transformers' AttentionInterface that keeps its mask and returns zeros.

    Some models do not pass on what their forward is given beyond its own arguments, so that nothing is recorded.
    """
    if recorded_masks is not None:
        recorded_masks.append(attention_mask)
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def _is_visible(mask: Tensor) -> Tensor:
    """bool [1, 1, N, N]. mask: of booleans, or added to the scores, far below 0 where a key is hidden."""
    return mask if mask.dtype == torch.bool else mask > -1e4


def _reacts_to_later_tokens(model: PreTrainedModel) -> bool:
    """Whether other later tokens change logits as another first one changes those after it."""
    # Some operations are for narrower types alone, some models use weights of modules that they do not call.
    for dtype in (torch.float64, torch.float32):
        with suppress(RuntimeError, TypeError, NotImplementedError):
            return _reacts_in(model, dtype)
    return _reacts_in(model, model.dtype)


def _reacts_in(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    ids = probe_ids(model)
    fork = len(ids) // 2
    # All of the later ones: a model may take one of them for padding. Not in another order: attention that is nearly
    # uniform would not notice.
    first, later = torch.cat([ids[1:2], ids[1:]]), torch.cat([ids[:fork], ids[: len(ids) - fork].flip(0)])
    with in_type(model, dtype):
        plain, after, before = (
            model(input_ids=i[None], use_cache=False).logits[0].double() for i in (ids, first, later)
        )
    rounding = 16 * torch.finfo(dtype).eps * rms(plain - plain.mean(-1, keepdim=True)).max()
    effect = rms(after - plain)[1:].max()
    return bool(rms(before - plain)[:fork].max() > 1e-3 * effect + rounding)

"""The policy: loading a model with its tokenizer, saving it, and its weights for engines that hold a copy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from treepo.distributed import resolve_device, set_current_device
from treepo.errors import SettingError, UnsupportedAttentionError
from treepo.model.attention import ATTENTION_NAME, register_attention
from treepo.model.causality import check_causal
from treepo.model.compatibility import check_config, check_logits_match, max_exact_len
from treepo.model.fsdp import Sharding, is_sharded, reshard
from treepo.model.lora import has_adapter, merged, without_wrapper
from treepo.model.probe import vocabulary_size
from treepo.model.quantization import four_bit_settings
from treepo.model.safety import check_before_loading
from treepo.model.saving import save_model
from treepo.model.sources import find_source
from treepo.model.tokenizer import load_tokenizer
from treepo.model.weights import load_model
from treepo.utils.foreign_errors import first_line


@dataclass(frozen=True)
class Policy:
    """The model being trained, and its tokenizer.

    supports_tree_attention: whether its attention can be told which tokens see which. tokenizer_files: by name, what
    the tokenizer is saved as (see `LoadedTokenizer`).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    supports_tree_attention: bool = True
    tokenizer_files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Token ids that end a response, from the generation settings and the tokenizer, without those that the model
        has no embedding for: it never samples them."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = list(configured) if isinstance(configured, list | tuple) else [configured]
        size = vocabulary_size(self.model)
        return tuple(sorted({i for i in [*ids, self.tokenizer.eos_token_id] if type(i) is int and 0 <= i < size}))

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, not all weights."""
        return has_adapter(self.model)

    @property
    def max_len(self) -> int | None:
        """Most tokens of a sequence that the model was made for and is exact for; None if it does not say."""
        return max_exact_len(self.model.config)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return decoded(self.tokenizer, token_ids)

    def save(self, folder: Path) -> None:
        """Write a folder that AutoModelForCausalLM and AutoTokenizer load (safetensors), with adapters merged.

        The tokenizer is the one that was loaded, in the same files. Of a sharded model a `gathered_copy` is saved.
        Raises OSError if it cannot be written; what was there before stays.
        """
        whole = merged(self.model) if self.has_adapter else self.model
        save_model(whole, folder, self.tokenizer, self.tokenizer_files)

    def save_adapter(self, folder: Path) -> None:
        """Write only the adapters, as peft loads them; see `save`."""
        assert self.has_adapter, "there is an adapter to save"
        save_model(self.model, folder)


def decoded(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Return the text of tokens, without special ones."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def recompute_activations(model: nn.Module) -> None:
    """Keep only each layer's input, and compute what lies inside it again in the backward pass.

    transformers' own switch works in training mode alone, which turns dropout on, and there also where no gradient is
    computed, so that sampling would lose its cache. Raises SettingError if the model's layers do not support it.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        message = f"{type(model).__name__} has no layers that support it"
        raise SettingError("train.gradient_checkpointing", message)
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    # Sampling has nothing to recompute, and need not save the random state of every layer and step.
    if torch.is_grad_enabled():
        return checkpoint(forward, *inputs, use_reentrant=False, **settings)
    return forward(*inputs, **settings)


def load_policy(
    path: str,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    revision: str = "",
    tokenizer: str = "",
    attn_implementation: str = "",
    trust_remote_code: bool = False,
    packable: bool = True,
    load_in_4bit: bool = False,
    sharding: Sharding | None = None,
) -> Policy:
    """Load a folder or the name of a model on the hub, or a folder with an adapter, which is added to the weights of
    the model that it names.

    device, revision, tokenizer, attn_implementation: see ModelSettings; load_in_4bit: see LoraSettings. packable:
    whether its attention is to be told which tokens see which, as packing and the embedded engine need; without it a
    model runs as in transformers, one trajectory per row. sharding: how the model is divided over the processes, which
    then all have to call this; its weights are read in parts, unless they are stored under other names than the
    model's or an adapter is added: then the model is returned whole. Raises SettingError for model.path if there is no
    model, no tokenizer, no safetensors weights, if they do not fit each other, or if later tokens change what the model
    predicts; UnsupportedAttentionError if the model is to be packable and is not.
    """
    device = usable_device(device)
    set_current_device(torch.device(device))
    source = find_source(path, tokenizer=tokenizer, revision=revision)
    if load_in_4bit and source.adapter:
        raise SettingError("lora.load_in_4bit", f"an adapter is not added to 4 bits; use lora.path = {path!r}", True)
    quantization = four_bit_settings(getattr(torch, dtype)) if load_in_4bit else None
    register_attention()
    try:
        load = partial(
            load_tokenizer, source.tokenizer, trust_remote_code=trust_remote_code, revision=source.tokenizer_revision
        )
        check_before_loading(source, lambda: load().tokenizer)
        config = AutoConfig.from_pretrained(source.base, trust_remote_code=trust_remote_code, revision=source.revision)
        if packable:
            check_config(config)
        loaded = load()
        arguments = {
            "dtype": getattr(torch, dtype),
            "attn_implementation": ATTENTION_NAME if packable else attn_implementation or None,
            "trust_remote_code": trust_remote_code,
            "revision": source.revision,
        }
        if quantization is not None:
            arguments["quantization_config"] = quantization
        model = load_model(source, arguments, device, config, sharding)
        _check_model(model, loaded.tokenizer, packable)
        if is_sharded(model):
            # Of trying it the embeddings are gathered.
            reshard(model)
    except UnsupportedAttentionError:
        raise
    except Exception as error:
        message = error.message if isinstance(error, SettingError) else first_line(error) or type(error).__name__
        raise SettingError("model.path", f"cannot load {path!r}: {message}") from error
    return Policy(model, loaded.tokenizer, packable, tokenizer_files=loaded.files)


def adopt_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, packable: bool = True) -> Policy:
    """The policy of a model that a program has loaded; it is trained in place, on its device and in its type.

    Of a model with an adapter (a PeftModel, too) the adapter is trained.

    packable: see `load_policy`. Raises SettingError and UnsupportedAttentionError for what that refuses.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise SettingError("processing_class", "must be a tokenizer", type(tokenizer).__name__)
    model = without_wrapper(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingError("model", "has no weights to train: none of them has requires_grad", type(model).__name__)
    set_current_device(model.device)
    register_attention()
    try:
        if packable:
            check_config(model.config)
            if model._supports_attention_backend:
                model.set_attn_implementation(ATTENTION_NAME)
        _check_model(model, tokenizer, packable)
    except UnsupportedAttentionError:
        raise
    except Exception as error:
        message = error.message if isinstance(error, SettingError) else first_line(error) or type(error).__name__
        raise SettingError("model", f"cannot use {type(model).__name__}: {message}") from error
    return Policy(model, tokenizer, packable)


def _check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, packable: bool) -> None:
    """Raise SettingError or UnsupportedAttentionError for a model that cannot be trained; turn its dropout off."""
    if packable and not model._supports_attention_backend:
        message = f"{model.config.model_type!r} has its own attention, which cannot be packed"
        raise UnsupportedAttentionError(message)
    if len(tokenizer) > (size := vocabulary_size(model)):
        raise SettingError("model.path", f"the tokenizer has {len(tokenizer)} tokens, the model {size}")
    model.eval()
    if packable:
        check_logits_match(model)
    check_causal(model)


def usable_device(device: str) -> str:
    """What `model.device` stands for. Raises SettingError for a device that PyTorch cannot use."""
    device = resolve_device(device)
    try:
        torch.empty(1, device=device).item()
    # A torch that was built without a device says so with an AssertionError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError("model.device", f"cannot use {device!r}: {first_line(error)}") from error
    return device

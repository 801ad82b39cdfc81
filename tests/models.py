"""Tiny random Hugging Face models and tokenizers."""

import string
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from treepo.model.attention import ATTENTION_NAME, register_attention

SLIDING_WINDOW = 5
"""Far smaller than the sequences of the tests."""

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 4}),
    "gemma": (GemmaConfig, GemmaForCausalLM, {"head_dim": 16, "num_key_value_heads": 1}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": SLIDING_WINDOW}),
    "phi3": (Phi3Config, Phi3ForCausalLM, {"sliding_window": SLIDING_WINDOW, "num_hidden_layers": 1}),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            "head_dim": 8,
            "sliding_window": SLIDING_WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 4,
        },
    ),
}
"""Per kind: its configuration, its model, and what differs from SIZES."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tiny_model(
    kind: str = "qwen2",
    seed: int = 0,
    vocab_size: int = 16,
    dtype: torch.dtype = torch.float32,
    attention: str = ATTENTION_NAME,
    **settings: object,
) -> PreTrainedModel:
    """A model of random weights, the same ones for the same seed and settings whatever its attention.

    attention: "treepo", or "sdpa" or "eager" for the model as transformers runs it.
    """
    register_attention()
    make_config, make_model, own = KINDS[kind]
    config = make_config(vocab_size=vocab_size, attn_implementation=attention, **{**SIZES, **own, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config).to(dtype)
        with torch.no_grad():
            # Norms and biases begin as ones and zeros, which would hide errors.
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape).to(dtype))
    if dtype == torch.float64:
        _widen_norms(model)
    return model.eval()


def _widen_norms(model: nn.Module) -> None:
    """Compute RMS norms in the dtype of their input; transformers rounds it to float32, whatever it is."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_wide_norm, module)


def _wide_norm(module: Any, x: Tensor) -> Tensor:
    gemma = type(module).__name__.startswith("Gemma")
    eps = module.eps if gemma else module.variance_epsilon
    return (1 + module.weight if gemma else module.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def make_tiny_tokenizer(chat: bool = False) -> PreTrainedTokenizerBase:
    """One token per printable ASCII character, after <pad>, <bos>, <eos>, and two marks if there is a chat template."""
    names = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>"]
    printable = [c for c in string.printable if not c.isspace()]
    # Byte-level tokenizers write a space as this letter.
    vocab = {token: i for i, token in enumerate([*names, *printable, "\u0120"])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        unk_token=None,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": names[3:]})
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tiny_model(folder: Path, kind: str = "qwen2", chat: bool = False, seed: int = 0, **settings: object) -> Path:
    """Write a folder with a tiny model (safetensors) and a tokenizer, as one downloads it, and return it."""
    tokenizer = make_tiny_tokenizer(chat)
    model = make_tiny_model(kind, seed, vocab_size=len(tokenizer), attention="sdpa", **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

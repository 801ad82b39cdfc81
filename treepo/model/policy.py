"""The policy: a Hugging Face decoder and its tokenizer, loaded from a folder and saved to one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from treepo.model.attention import ATTENTION_NAME, register_attention

SERVED_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Policy:
    """The model being trained, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every token id that ends a response, from the generation settings and the tokenizer."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = list(configured) if isinstance(configured, list) else [configured]
        return tuple(sorted({i for i in [*ids, self.tokenizer.eos_token_id] if isinstance(i, int)}))

    @property
    def max_len(self) -> int | None:
        """Most tokens of a sequence that the model was made for, or None if it does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a question: as the user's turn of the chat template where there is one, else as plain text."""
        if not self.tokenizer.chat_template:
            return self.tokenizer.encode(text)
        turns = [{"role": "user", "content": text}]
        rendered = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenizer.encode(str(rendered), add_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Write a folder that AutoModelForCausalLM and AutoTokenizer load (safetensors)."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_policy(
    path: str,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Policy:
    """Load a folder or the name of a model on the hub.

    Raises ValueError naming `path` if there is no model, no tokenizer, no safetensors weights, or if its attention
    is of a kind that packing and the engine cannot serve.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"model.device: cannot use {device!r}: {_first_line(error)}") from error
    if Path(path).is_dir():
        _check_folder(Path(path))
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ValueError(f"model.path: no folder {path!r}")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.path: cannot load {path!r}: {_first_line(error)}") from error
    check_served(config)
    register_attention()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION_NAME,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model.path: cannot load the weights of {path!r}: {_first_line(error)}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        # transformers would only warn, and go on with random weights in their place.
        raise ValueError(f"model.path: the weights of {path!r} lack {len(missing)} tensors, such as {missing[0]!r}")
    if not model._supports_attention_backend:
        raise ValueError(f"model.path: {config.model_type!r} has an attention of its own, which is not supported")
    nn.Module.to(model, torch.device(device))
    return Policy(model.eval(), tokenizer)


def check_served(config: object) -> None:
    """Raise ValueError if a model of this configuration has layers that are not plain or windowed attention."""
    kind = getattr(config, "model_type", "?")
    other = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if other:
        raise ValueError(f"model.path: {kind!r} has layers of type {sorted(other)}, which are not supported")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise ValueError(f"model.path: {kind!r} soft-caps its attention, which is not supported")


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"model.path: no config.json in {str(folder)!r}")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise ValueError(f"model.path: no tokenizer in {str(folder)!r}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"model.path: no safetensors weights in {str(folder)!r}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]

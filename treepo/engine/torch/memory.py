"""How many tokens' keys and values fit into free memory."""

import os

import torch
from torch import nn

SHARE = 0.5
"""Of the free memory, what the engine may take for keys and values by default."""

UNKNOWN_BYTES = 4 << 30
"""Assumed where the system does not tell how much memory is free."""


def affordable_tokens(model: nn.Module) -> int:
    """Tokens whose keys and values take at most half of the memory that is free where the model lives."""
    return max(1024, int(SHARE * free_bytes(next(model.parameters()).device)) // bytes_per_token(model))


def bytes_per_token(model: nn.Module) -> int:
    """Bytes of one token's keys and values; on the CPU they are kept in float32."""
    parameter = next(model.parameters())
    text = model.config.get_text_config()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    # Recurrent layers have none; then a state as large as a token's hidden state is assumed.
    query_heads = getattr(text, "num_attention_heads", 1)
    heads = getattr(text, "num_key_value_heads", None) or query_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // query_heads
    itemsize = 4 if parameter.device.type == "cpu" else parameter.element_size()
    return 2 * text.num_hidden_layers * heads * size * itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that nothing uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN_BYTES

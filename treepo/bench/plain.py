"""The plain loop: what one writes with transformers alone to sample answers in batches.

Prompts are padded on the left, keys and values are kept in a DynamicCache, only the last token's logits are computed.

Letters: B rows · P tokens of the longest prompt · N new tokens · V vocabulary.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

PAD_ID = 0


@torch.inference_mode()
def sample_plain(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, eos_ids: Collection[int]
) -> list[np.ndarray]:
    """One answer per prompt, int32 [n] each: at most `max_new_tokens`, up to and with the first of `eos_ids`."""
    ids, mask = pad_left(prompts, max_new_tokens, model.device)
    num_columns = ids.shape[1]
    positions = (mask[:, :num_columns].cumsum(1) - 1).clamp_(min=0)
    cache = DynamicCache(config=model.config)
    ends = torch.tensor(sorted(eos_ids), device=model.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    columns: list[Tensor] = []
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask[:, : num_columns + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        ids = torch.multinomial(torch.softmax(logits.float() / temperature, dim=-1), 1)
        positions = positions[:, -1:] + 1
        columns.append(ids)
        if len(ends):
            ended |= torch.isin(ids[:, 0], ends)
            if ended.all():
                break
    return [_up_to_end(row, eos_ids) for row in torch.cat(columns, dim=1).cpu().numpy().astype(np.int32)]


def pad_left(prompts: Sequence[Sequence[int]], max_new_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids int64 [B, P] and attention mask int64 [B, P + N], 0 where there is padding."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), PAD_ID)
    mask = torch.ones(len(prompts), longest + max_new_tokens, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, : longest - len(prompt)] = 0
    return ids.to(device), mask.to(device)


def _up_to_end(row: np.ndarray, eos_ids: Collection[int]) -> np.ndarray:
    ends = np.flatnonzero(np.isin(row, list(eos_ids)))
    return row[: ends[0] + 1] if len(ends) else row

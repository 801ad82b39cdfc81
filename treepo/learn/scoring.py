"""The trainer's own log-probabilities of packed trees: one forward, each distinct token once."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from treepo.learn.packing import TreeBatch
from treepo.model.attention import TreeAttention


@dataclass(frozen=True, eq=False)
class Scores:
    """policy_logprobs [S] with gradient; entropies [S] of the distribution each term was drawn from, without."""

    policy_logprobs: Tensor
    entropies: Tensor


def score(model: nn.Module, batch: TreeBatch, temperature: float = 1.0) -> Scores:
    """Score every term of a batch under softmax(logits / temperature), the distribution it was sampled from.

    T packed tokens · S terms · V vocabulary.
    """
    device = next(model.parameters()).device
    packed = batch.packed
    token_ids, positions, ends, targets, predecessors = (
        torch.from_numpy(array).to(device)
        for array in (packed.token_ids, packed.positions, packed.subtree_ends, packed.targets, packed.predecessors)
    )
    logits = model(
        input_ids=token_ids[None],
        position_ids=positions[None],
        use_cache=False,
        attention_context=TreeAttention(batch.offsets, ends, positions),
    ).logits[0]
    # Half-precision logits are scored in float32, float64 ones stay as they are.
    wide = logits if logits.dtype == torch.float64 else logits.float()
    logprobs = torch.log_softmax(wide / temperature, dim=-1)
    with torch.no_grad():
        entropies = -(logprobs.exp() * logprobs).sum(-1)
    return Scores(logprobs[predecessors, token_ids[targets]], entropies[predecessors])

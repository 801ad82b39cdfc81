"""Drawing tokens, each request from its own random stream.

Letters: R draws · M rows of logits · V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from treepo.engine.base import SamplingParams

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

CHUNK = 2048
"""Tokens whose probabilities are summed at a time, so that a large vocabulary needs no sum in double precision of its
own size."""


@dataclass(frozen=True, eq=False)
class BatchSamplingParams:
    """How each of R tokens is drawn; see SamplingParams. Arrays [R]."""

    temperatures: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray

    @classmethod
    def of(cls, sampling: Sequence[SamplingParams]) -> "BatchSamplingParams":
        """One draw for each."""
        return cls(*(np.array([getattr(s, f.name) for s in sampling]) for f in fields(SamplingParams)))

    @property
    def truncate(self) -> bool:
        """Whether any draw leaves tokens out."""
        return bool((self.top_k > 0).any() or (self.top_p < 1).any() or (self.min_p > 0).any())


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """float64 in [0, 1): for each row, number `position` of stream `seed`.

    The stream is SplitMix64 (Steele, Lea and Flood, 2014), whose n-th number is a function of seed and n alone, so
    that a row's numbers depend neither on the batch nor on what was drawn before.
    """
    with np.errstate(over="ignore"):
        z = seeds.astype(np.uint64) + (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_tokens(
    logits: Tensor, draws_from: np.ndarray, params: BatchSamplingParams, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One token per draw by inverting the distribution function at that draw's number.

    logits: [M, V]; draws_from: int64 [R], the row of each draw. Returns token ids int32 [R] and log-probabilities
    float32 [R] under softmax(logits / temperature) (temperature 0: the likeliest token, at temperature 1), whatever
    top-k, top-p and min-p leave out: the loss compares with these.
    """
    device = logits.device
    scales = np.where(params.temperatures == 0, 1.0, params.temperatures).astype(np.float32)
    if len(draws_from) != len(logits) or (draws_from != np.arange(len(logits))).any():
        logits = logits[torch.from_numpy(draws_from).to(device)]
    logits = logits.float()
    if (scales != 1).any():
        logits = logits / torch.from_numpy(scales).to(device)[:, None]
    logprobs = torch.log_softmax(logits, dim=-1)
    probs = logprobs.exp()
    if params.truncate:
        probs = _truncated(probs, params)
    tokens = _invert(probs, torch.from_numpy(numbers).to(device))
    if (params.temperatures == 0).any():
        tokens = torch.where(torch.from_numpy(params.temperatures == 0).to(device), logits.argmax(-1), tokens)
    chosen = logprobs.gather(1, tokens[:, None]).squeeze(1)
    return tokens.int().cpu().numpy(), chosen.cpu().numpy()


def _invert(probs: Tensor, numbers: Tensor) -> Tensor:
    """int64 [R]: the first token at which the sum of probabilities exceeds number x total; sums in float64."""
    size = probs.shape[1]
    if size > CHUNK:
        padded = torch.nn.functional.pad(probs, (0, -size % CHUNK)).view(len(probs), -1, CHUNK)
        ends = padded.sum(-1, dtype=torch.float64).cumsum(-1)
        thresholds = numbers[:, None] * ends[:, -1:]
        chunk = torch.searchsorted(ends, thresholds, right=True).clamp_(max=ends.shape[1] - 1)
        before = torch.where(chunk > 0, ends.gather(1, (chunk - 1).clamp_(min=0)), 0.0)
        inside = padded[torch.arange(len(probs), device=probs.device), chunk[:, 0]].double().cumsum(-1)
        offset = torch.searchsorted(inside, thresholds - before, right=True).clamp_(max=CHUNK - 1)
        return (chunk * CHUNK + offset).squeeze(1).clamp_(max=size - 1)
    sums = probs.cumsum(-1, dtype=torch.float64)
    thresholds = numbers[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, thresholds, right=True).squeeze(1).clamp_(max=size - 1)


def _truncated(probs: Tensor, params: BatchSamplingParams) -> Tensor:
    """0 for the tokens that are left out: beyond the k likeliest; beyond the likeliest ones that together reach top_p
    of what is left; below min_p times the likeliest one. In this order, as in transformers; the likeliest stays."""
    top_k, top_p, min_p = (
        torch.from_numpy(x).to(probs.device)[:, None] for x in (params.top_k, params.top_p, params.min_p)
    )
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(probs.shape[1], device=probs.device)
    ordered = ordered.masked_fill((top_k > 0) & (ranks >= top_k), 0.0)
    sums = ordered.double().cumsum(-1)
    ordered = ordered.masked_fill((sums - ordered >= top_p * sums[:, -1:]) & (top_p < 1), 0.0)
    ordered = ordered.masked_fill(ordered < min_p * ordered[:, :1], 0.0)
    return torch.zeros_like(probs).scatter_(1, order, ordered)

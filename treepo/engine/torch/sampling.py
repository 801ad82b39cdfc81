"""Drawing tokens, each request from its own random stream."""

import numpy as np
import torch
from torch import Tensor

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


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


def draw(logits: Tensor, temperatures: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One token per row by inverting the distribution function at that row's number.

    logits: [B, V]. Returns token ids int32 [B] and log-probabilities float32 [B] under the distribution sampled from
    (temperature 0: the likeliest token and its log-probability at temperature 1).
    """
    greedy = torch.from_numpy(temperatures == 0).to(logits.device)
    scale = torch.from_numpy(np.where(temperatures == 0, 1.0, temperatures)).to(logits.device, torch.float32)
    logprobs = torch.log_softmax(logits.float() / scale[:, None], dim=-1)
    cumulative = logprobs.double().exp_().cumsum(-1)
    thresholds = torch.from_numpy(numbers).to(logits.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, thresholds, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
    tokens = torch.where(greedy, logits.argmax(-1), drawn)
    chosen = logprobs.gather(1, tokens[:, None]).squeeze(1)
    return tokens.int().cpu().numpy(), chosen.cpu().numpy()

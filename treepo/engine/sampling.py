"""Sampling of tokens, each request from its own random stream.

Letters: S samples · M rows of logits · V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from treepo.engine.base import SamplingParams
from treepo.engine.transfer import send
from treepo.model.kernels.compile import load_kernels

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

CHUNK = 2048
"""Tokens whose probabilities are summed at a time, so that no float64 tensor has the size of the vocabulary."""

KnownIds = Callable[[int], np.ndarray]
"""number of a sample -> its token ids so far, prompt and output."""


@dataclass(frozen=True)
class SamplingKinds:
    """What any of several samples needs: a temperature other than 1, the likeliest token, tokens left out."""

    scales: bool
    has_greedy: bool
    truncates: bool


@dataclass(frozen=True, eq=False)
class BatchSamplingParams:
    """SamplingParams of each of S samples; arrays [S]."""

    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray
    repetition_penalty: np.ndarray

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> "BatchSamplingParams":
        """Return those of several samples."""
        return cls(**{name: np.array([getattr(one, name) for one in params]) for name in NAMES})

    def of_rows(self, rows: np.ndarray) -> "BatchSamplingParams":
        """Return those of some of the samples."""
        return BatchSamplingParams(**{name: getattr(self, name)[rows] for name in NAMES})

    def put(self, row: int, params: SamplingParams) -> None:
        """Replace those of a sample."""
        for name in NAMES:
            getattr(self, name)[row] = getattr(params, name)

    @property
    def truncates(self) -> bool:
        """Whether any sample leaves tokens out."""
        return bool((self.top_k > 0).any() or (self.top_p < 1).any() or (self.min_p > 0).any())

    @property
    def kinds(self) -> SamplingKinds:
        """What the samples need."""
        is_greedy = self.temperature == 0
        return SamplingKinds(bool(((self.temperature != 1) & ~is_greedy).any()), bool(is_greedy.any()), self.truncates)

    def arrays(self) -> list[np.ndarray]:
        """Return what `draw` needs on the device: divisors of logits, which samples take the likeliest token, and
        top_k, top_p and min_p."""
        is_greedy = self.temperature == 0
        divisors = np.where(is_greedy, 1.0, self.temperature).astype(np.float32)
        return [divisors, is_greedy, self.top_k, self.top_p, self.min_p]

    @property
    def penalizes(self) -> bool:
        """Whether any sample has a repetition penalty."""
        return bool((self.repetition_penalty != 1).any())


NAMES = tuple(f.name for f in fields(SamplingParams))


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
    logits: Tensor,
    logits_rows: np.ndarray,
    params: BatchSamplingParams,
    numbers: np.ndarray,
    *,
    known_ids: KnownIds | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one token per sample, by inverting the distribution function at that sample's number.

    logits: [M, V], not changed; logits_rows: int64 [S], the row of each sample; known_ids: called for samples with a
    repetition penalty, which need it. Returns token ids int32 [S] and log-probabilities float32 [S] under
    softmax(penalized logits / temperature) (temperature 0: the likeliest token, at temperature 1), before top-k, top-p
    and min-p leave tokens out: the loss compares with these.
    """
    device = logits.device
    # Small vocabularies cost nothing, and stay what they are without a compiler.
    is_large = logits.shape[1] > CHUNK and logits.dtype in (torch.float32, torch.bfloat16)
    is_plain = not params.truncates and not params.penalizes
    if device.type == "cpu" and is_large and is_plain and (kernels := load_kernels("sampling.c")):
        return _sample_compiled(kernels, logits.contiguous(), logits_rows, params.temperature, numbers)
    is_picked = len(logits_rows) != len(logits) or (logits_rows != np.arange(len(logits))).any()
    rows, thresholds, *tensors = send([logits_rows, numbers, *params.arrays()], device)
    logits = logits[rows] if is_picked else logits
    if params.penalizes:
        assert known_ids is not None, "a repetition penalty needs the tokens so far"
        logits = _penalized(logits.float(), params.repetition_penalty, known_ids)
    # One copy: for each of them the host waits until the device has done all before it.
    return split_drawn(draw(logits, thresholds, params.kinds, tensors))


def split_drawn(drawn: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What `draw` returns, or many of them [..., 2, S], as token ids int32 and log-probabilities float32 [..., S]."""
    both = drawn.cpu().numpy()
    return both[..., 0, :], both[..., 1, :].view(np.float32)


def draw(logits: Tensor, thresholds: Tensor, kinds: SamplingKinds, tensors: Sequence[Tensor]) -> Tensor:
    """Draw a token from each row of logits [S, V] on their device, for which the host does not wait.

    thresholds: float64 [S], each sample's number. tensors: BatchSamplingParams.arrays on the device. Returns int32
    [2, S]: token ids, and the bits of their log-probabilities; see sample_tokens.
    """
    if logits.device.type == "cuda" and (fused := _load_fused()):
        return fused(logits, thresholds, tensors, has_greedy=kinds.has_greedy, truncates=kinds.truncates)
    divisors, argmax_wins, *truncation = tensors
    logits = logits.float()
    if kinds.scales:
        logits = logits / divisors[:, None]
    logprobs = torch.log_softmax(logits, dim=-1)
    probs = logprobs.exp()
    if kinds.truncates:
        probs = _truncated(probs, *(x[:, None] for x in truncation))
    tokens = _invert(probs, thresholds)
    if kinds.has_greedy:
        tokens = torch.where(argmax_wins, logits.argmax(-1), tokens)
    chosen = logprobs.gather(1, tokens[:, None]).squeeze(1)
    return torch.stack([tokens.int(), chosen.view(torch.int32)])


@cache
def _load_fused() -> Callable[..., Tensor] | None:
    """Return the kernel for GPUs, if there is Triton."""
    try:
        from treepo.engine.triton_sampling import draw_fused  # noqa: PLC0415 - Triton is there on GPUs only
    except ImportError:
        return None
    return draw_fused


def _penalized(logits: Tensor, penalties: np.ndarray, known_ids: KnownIds) -> Tensor:
    """float32 [S, V]: logits of known tokens divided by the sample's penalty if positive, multiplied if negative."""
    samples = np.flatnonzero(penalties != 1)
    known = [known_ids(sample) for sample in samples.tolist()]
    rows = torch.from_numpy(np.repeat(samples, [len(ids) for ids in known])).to(logits.device)
    columns = torch.from_numpy(np.concatenate(known)).to(logits.device).long()
    penalty = torch.from_numpy(penalties.astype(np.float32)).to(logits.device)[rows]
    found = logits[rows, columns]
    # A token that occurs twice gets the same value twice.
    return logits.index_put((rows, columns), torch.where(found < 0, found * penalty, found / penalty))


def _sample_compiled(
    kernels: SimpleNamespace, logits: Tensor, logits_rows: np.ndarray, temperatures: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """sample_tokens without truncation, by sampling.c."""
    num_samples, size = len(logits_rows), logits.shape[1]
    rows, temperatures = logits_rows.astype(np.int64), temperatures.astype(np.float32)
    tokens, logprobs = np.empty(num_samples, np.int32), np.empty(num_samples, np.float32)
    scratch = np.empty(num_samples * (size // CHUNK + 1))
    is_wide = logits.dtype == torch.float32
    kernels.sample(
        S=num_samples,
        V=size,
        logits=logits.data_ptr() if is_wide else None,
        bfloat16_logits=None if is_wide else logits.data_ptr(),
        rows=rows.ctypes.data,
        temperatures=temperatures.ctypes.data,
        numbers=numbers.ctypes.data,
        tokens=tokens.ctypes.data,
        logprobs=logprobs.ctypes.data,
        scratch=scratch.ctypes.data,
    )
    return tokens, logprobs


def _invert(probs: Tensor, numbers: Tensor) -> Tensor:
    """int64 [S]: the first token at which the sum of probabilities exceeds number x total; sums in float64."""
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


def _truncated(probs: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """0 for the tokens that are left out: beyond the k likeliest; beyond the likeliest ones that together reach top_p
    of what is left; below min_p times the likeliest one. In this order, as in transformers; the likeliest stays."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(probs.shape[1], device=probs.device)
    ordered = ordered.masked_fill((top_k > 0) & (ranks >= top_k), 0.0)
    sums = ordered.double().cumsum(-1)
    ordered = ordered.masked_fill((sums - ordered >= top_p * sums[:, -1:]) & (top_p < 1), 0.0)
    ordered = ordered.masked_fill(ordered < min_p * ordered[:, :1], 0.0)
    return torch.zeros_like(probs).scatter_(1, order, ordered)

"""The seam between trees and whatever decodes tokens."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn from logits.

    Unlikely tokens are left out in this order, as in transformers, each rule on what the ones before it left: those
    beyond the `top_k` likeliest (0: none), those beyond the likeliest ones that together reach `top_p`, those below
    `min_p` times the likeliest one. temperature: 0 takes the likeliest token.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be within 0..1, got {self.min_p}")


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One segment to decode.

    request_id: chosen by the caller, unique among the requests that are under way.
    prefix_ids: int32 [n], n >= 1, what the segment continues.
    max_new_tokens: at least 1.
    seed: the random stream. The token at position p of the sequence (prompt included) is drawn with the p-th number
        of this stream, so a segment decoded in two requests equals the same segment decoded in one.
    sampling: how its tokens are drawn.
    group: requests of one group may share what they have in common, and are forgotten together.
    """

    request_id: int
    prefix_ids: np.ndarray
    max_new_tokens: int
    seed: int
    sampling: SamplingParams = SamplingParams()
    group: int = 0


@dataclass(frozen=True, eq=False)
class SampleResult:
    """One decoded segment.

    token_ids: int32 [n], 1 <= n <= max_new_tokens; includes the end-of-sequence token if one was drawn.
    logprobs: float32 [n] under softmax(logits / temperature), and softmax(logits) at temperature 0: what the loss
        compares with. What top_k, top_p and min_p leave out does not change them.
    ended: whether the last token is an end-of-sequence token.
    """

    request_id: int
    token_ids: np.ndarray
    logprobs: np.ndarray
    ended: bool


@dataclass(frozen=True)
class EngineCounters:
    """What an engine has done since it was made; subtract two of them for what it did in between.

    num_steps: decoding steps. num_slots: paths that those steps could have decoded. num_decoded: tokens drawn.
    num_prefilled, num_cached: tokens of prefixes that were computed, and that were known already; the last token of a
    prefix, which is computed to draw the first one of a segment, is in neither.
    """

    num_steps: int = 0
    num_slots: int = 0
    num_decoded: int = 0
    num_prefilled: int = 0
    num_cached: int = 0

    def __sub__(self, other: "EngineCounters") -> "EngineCounters":
        return EngineCounters(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def metrics(self) -> dict[str, float]:
        """By name, with the share of slots that were busy."""
        utilisation = {"engine/utilisation": self.num_decoded / self.num_slots} if self.num_slots else {}
        prefixes = {"engine/prefilled": self.num_prefilled, "engine/cached": self.num_cached}
        return {"engine/steps": self.num_steps} | prefixes | utilisation


class Engine(Protocol):
    """Decodes segments; requests may be submitted while others run, and none depends on another."""

    @property
    def num_free_slots(self) -> int:
        """Requests that could be submitted now and decode at once; 0 or less if none."""
        ...

    @property
    def kv_cache_tokens(self) -> int:
        """Tokens it can remember at a time; what goes beyond is computed again when it is needed."""
        ...

    @property
    def peak_tokens(self) -> int:
        """Most tokens that it remembered at a time since the weights last changed."""
        ...

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, prefix and response."""
        ...

    @property
    def counters(self) -> EngineCounters:
        """What it has done so far."""
        ...

    def submit(self, request: SampleRequest) -> None:
        """Queue one request."""
        ...

    def step(self) -> list[SampleResult]:
        """Advance every running request by at least a token and return those that finished."""
        ...

    def abort_group(self, group: int) -> None:
        """Nothing of this group is wanted any more: its requests end without a result, what was remembered goes."""
        ...

    def sleep(self) -> None:
        """Nothing is under way, and nothing will be asked until the weights have changed: memory may be given back."""
        ...

    def update_weights(self, model: "PreTrainedModel") -> None:
        """Sample from these weights from now on and forget what was cached under the old ones.

        Nothing may be under way.
        """
        ...


Score = Callable[[np.ndarray, float], np.ndarray]
"""(token ids [n], temperature) -> log-probabilities [n, V] of what follows each, at that temperature."""

NUM_PROBES = 8


def max_logprob_diff(engine: Engine, score: Score, ids: np.ndarray, sampling: SamplingParams) -> float:
    """Largest difference between the log-probability that an engine reports for a token that it samples and the
    policy's, over several prefixes of `ids`; infinite where one is not a number."""
    lengths = np.unique(np.linspace(1, len(ids), NUM_PROBES).astype(int)).tolist()
    for name, length in enumerate(lengths):
        engine.submit(SampleRequest(name, ids[:length], 1, seed=name, sampling=sampling))
    found: dict[int, tuple[int, float]] = {}
    while len(found) < len(lengths):
        found |= {r.request_id: (int(r.token_ids[0]), float(r.logprobs[0])) for r in engine.step()}
    engine.abort_group(0)
    every = score(ids, sampling.temperature or 1.0)
    gaps = [abs(found[name][1] - every[length - 1, found[name][0]]) for name, length in enumerate(lengths)]
    return float(max(gaps)) if np.isfinite(gaps).all() else float("inf")

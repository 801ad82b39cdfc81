"""The engine protocol: token ids in, one segment out."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from treepo.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are sampled from logits.

    Unlikely tokens are left out in this order, as in transformers, each rule on what the ones before it left: those
    beyond the `top_k` likeliest (0: none), those beyond the likeliest ones that together reach `top_p`, those below
    `min_p` times the likeliest one. temperature: 0 takes the likeliest token.

    repetition_penalty: before all that, the logit of each token that occurs in the prompt or the output so far is
    divided by it if positive and multiplied by it if negative (Keskar et al., 2019, arXiv 1909.05858, section 4.1;
    negative logits as in vLLM and transformers). For evaluation alone: a penalized sample is not from the policy's
    distribution, with which the loss compares.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise SettingError("temperature", "must not be negative", self.temperature)
        if self.top_k < 0:
            raise SettingError("top_k", "must not be negative", self.top_k)
        if not 0 < self.top_p <= 1:
            raise SettingError("top_p", "must be above 0 and at most 1", self.top_p)
        if not 0 <= self.min_p <= 1:
            raise SettingError("min_p", "must be within 0..1", self.min_p)
        if not 0 < self.repetition_penalty < math.inf:
            raise SettingError("repetition_penalty", "must be positive and finite", self.repetition_penalty)


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One segment to decode.

    request_id: chosen by the caller, unique among the requests that are not finished.
    prefix_ids: int32 [n], n >= 1, what the segment continues.
    max_new_tokens: at least 1.
    seed: of the request's random stream. The token at position p of the sequence (prompt included) is sampled with the
        p-th number of this stream, so a segment decoded in two requests equals the same segment decoded in one.
    group: requests of one group are forgotten together.
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

    token_ids: int32 [n], 1 <= n <= max_new_tokens; includes the end-of-sequence token if one was sampled.
    logprobs: float32 [n] under softmax(logits / temperature), and softmax(logits) at temperature 0: what the loss
        compares with. top_k, top_p and min_p do not change them; with a repetition penalty the logits are the
        penalized ones.
    ended: whether the last token is an end-of-sequence token.
    """

    request_id: int
    token_ids: np.ndarray
    logprobs: np.ndarray
    ended: bool


@dataclass(frozen=True)
class EngineCounters:
    """What an engine has done since it was made; the difference of two is what it did in between.

    num_steps: decoding steps. num_slots: requests that those steps could have decoded. num_decoded: tokens sampled.
    num_prefilled, num_cached: tokens of prefixes that were computed, and that were found in the cache. The last token
    of a prefix, which is computed to sample the first one of a segment, is in neither.
    """

    num_steps: int = 0
    num_slots: int = 0
    num_decoded: int = 0
    num_prefilled: int = 0
    num_cached: int = 0

    def plus(self, **amounts: int) -> "EngineCounters":
        """Return the counters with these amounts added."""
        return replace(self, **{name: getattr(self, name) + amount for name, amount in amounts.items()})

    def __sub__(self, other: "EngineCounters") -> "EngineCounters":
        return EngineCounters(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def metrics(self) -> dict[str, float]:
        """Return engine/*, with the share of slots that were busy."""
        utilisation = {"engine/utilisation": self.num_decoded / self.num_slots} if self.num_slots else {}
        prefixes = {"engine/prefilled": self.num_prefilled, "engine/cached": self.num_cached}
        return {"engine/steps": self.num_steps} | prefixes | utilisation


class Engine(Protocol):
    """Decodes segments; requests may be submitted while others run, and none depends on another.

    Defaults are those of an engine without a cache or a limit. Whoever opens an engine closes it; `contextlib.closing`
    does that at the end of a block.
    """

    counters: EngineCounters
    """What it has done so far."""

    reads_model: bool = True
    """Whether it computes with the model's own weights, not with a copy."""

    is_shared: bool = False
    """Whether the engines of several processes are one, which the first process alone gives weights."""

    num_updates: int = 0
    """How often `update_weights` has given it weights."""

    @property
    def num_free_slots(self) -> int:
        """Requests that could be submitted now and be decoded at once; 0 or less if none."""
        ...

    @property
    def kv_cache_tokens(self) -> int:
        """Tokens that the cache holds; beyond these, prefixes are computed again when they are needed."""
        return sys.maxsize

    @property
    def peak_tokens(self) -> int:
        """Most tokens that were in the cache at a time since the weights last changed; 0 if the engine has none."""
        return 0

    @property
    def cache_bytes(self) -> int | None:
        """Bytes that cached keys and values take in this process; None if the engine has none or does not know."""
        return None

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, prefix and response."""
        return sys.maxsize

    def submit(self, request: SampleRequest) -> None:
        """Queue a request. Raises SettingError if it can never fit."""

    def step(self) -> list[SampleResult]:
        """Advance every running request by at least a token and return the segments that are finished.

        Raises FloatingPointError if logits are not finite.
        """
        ...

    def abort_group(self, group: int) -> None:
        """End the requests of a group without results and forget what was cached for it."""

    def sleep(self) -> None:
        """Free memory until the weights change; nothing is submitted before that, and no request may be running."""

    def update_weights(self, model: "PreTrainedModel") -> None:
        """Sample from these weights from now on and forget what was cached; no request may be running."""

    def join_update(self, model: "PreTrainedModel") -> None:
        """Take part while another process gives new weights, of which this one has a share, to engines of all."""

    def close(self) -> None:
        """End all requests and release memory, threads and connections. Closing twice does nothing more."""


Score = Callable[[np.ndarray, float], np.ndarray]
"""(token ids [n], temperature) -> log-probabilities [n, V] of what follows each, at that temperature."""

NUM_PROBES = 8


def max_logprob_diff(engine: Engine, score: Score, ids: np.ndarray, sampling: SamplingParams) -> float:
    """Return the largest difference between the log-probability that an engine reports for a token that it samples and
    the policy's, over several prefixes of `ids`; infinite where one is not a number."""
    lengths = np.unique(np.linspace(1, len(ids), NUM_PROBES).astype(int)).tolist()
    for name, length in enumerate(lengths):
        engine.submit(SampleRequest(name, ids[:length], 1, seed=name, sampling=sampling))
    found: dict[int, tuple[int, float]] = {}
    while len(found) < len(lengths):
        found |= {r.request_id: (int(r.token_ids[0]), float(r.logprobs[0])) for r in engine.step()}
    engine.abort_group(0)
    expected = score(ids, sampling.temperature or 1.0)
    diffs = [abs(found[name][1] - expected[length - 1, found[name][0]]) for name, length in enumerate(lengths)]
    return float(max(diffs)) if np.isfinite(diffs).all() else float("inf")

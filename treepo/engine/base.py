"""The seam between trees and whatever decodes tokens."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One segment to decode.

    request_id: chosen by the caller, unique among the requests that are under way.
    prefix_ids: int32 [n], n >= 1, what the segment continues.
    max_new_tokens: at least 1.
    seed: the random stream. The token at position p of the sequence (prompt included) is drawn with the p-th number
        of this stream, so a segment decoded in two requests equals the same segment decoded in one.
    temperature: 0 takes the likeliest token. top_k (0: all), top_p, min_p: leave unlikely tokens out.
    group: requests of one group may share what they have in common, and are forgotten together.
    """

    request_id: int
    prefix_ids: np.ndarray
    max_new_tokens: int
    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
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

    num_steps: decoding steps. num_slots: paths that those steps could have decoded. num_decoded, num_prefilled: tokens
    drawn, and tokens of prefixes computed.
    """

    num_steps: int
    num_slots: int
    num_decoded: int
    num_prefilled: int

    def __sub__(self, other: "EngineCounters") -> "EngineCounters":
        return EngineCounters(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def metrics(self) -> dict[str, float]:
        """By name, with the share of slots that were busy."""
        utilisation = {"engine/utilisation": self.num_decoded / self.num_slots} if self.num_slots else {}
        return {"engine/steps": self.num_steps, "engine/prefilled": self.num_prefilled} | utilisation


class Engine(Protocol):
    """Decodes segments; requests may be submitted while others run, and none depends on another."""

    @property
    def room(self) -> int:
        """Requests that could be submitted now and decode at once; 0 or less if none."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens it can remember at a time; what goes beyond is computed again when it is needed."""
        ...

    @property
    def peak_tokens(self) -> int:
        """Most tokens that it remembered at a time since the weights last changed."""
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

    def release(self, group: int) -> None:
        """Nothing of this group will be continued any more: what was remembered for it may go."""
        ...

    def update_weights(self, model: "Module") -> None:
        """Sample from these weights from now on and forget what was cached under the old ones.

        Nothing may be under way.
        """
        ...

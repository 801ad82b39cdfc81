"""TorchEngine: continuous batching over the model that is being trained.

A step admits waiting requests, computes the prompts that no row holds yet, and then decodes one token for every row.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from treepo.engine.base import EngineCounters, SampleRequest, SampleResult
from treepo.engine.torch.cache import DecodeAttention, KeyValueCache, PrefillAttention
from treepo.engine.torch.rows import Admission, Rows
from treepo.engine.torch.sampling import draw, uniforms
from treepo.model.attention import AttentionContext

CAPACITY_STEP = 64
"""Rows grow by this many tokens, so that they grow rarely."""

WORTH_WAITING = 16
"""Shared tokens that justify waiting a forward for another request's prefix."""


class TorchEngine:
    """Serves a model whose attention is `treepo.model.attention.attend`.

    max_batch: requests decoded at a time. The cache has up to twice as many rows, so that what finished requests
    computed is there for those that continue them; a row that is needed elsewhere is computed again, never an error.
    max_prefill_tokens: most prompt tokens of one forward, though at least one prompt.
    """

    def __init__(
        self, model: nn.Module, eos_ids: Sequence[int], max_batch: int = 256, max_prefill_tokens: int = 8192
    ) -> None:
        self.model = model
        self.eos_ids = np.array(eos_ids, np.int64)
        self.max_batch = max_batch
        self.max_prefill_tokens = max_prefill_tokens
        self.waiting: deque[SampleRequest] = deque()
        self.rows = Rows(2 * max_batch)
        self.cache = KeyValueCache()
        self.num_steps = 0
        self.num_prefilled = 0
        self.num_decoded = 0

    @property
    def capacity(self) -> int:
        """Rows of the cache; see Engine."""
        return self.rows.max_rows

    @property
    def counters(self) -> EngineCounters:
        """See Engine."""
        num_slots = self.num_steps * self.max_batch
        return EngineCounters(self.num_steps, num_slots, self.num_decoded, self.num_prefilled)

    def submit(self, request: SampleRequest) -> None:
        """Queue one request; see Engine."""
        assert len(request.prefix_ids) > 0 and request.max_new_tokens > 0
        self.waiting.append(request)

    @torch.no_grad()
    def step(self) -> list[SampleResult]:
        """Decode one token for every running request; see Engine."""
        self.num_steps += 1
        while spans := self._admit():
            self._prefill(spans)
        if self.rows.num_active == 0:
            return []
        tokens, logprobs = self._decode()
        return self._collect(tokens, logprobs)

    def update_weights(self, model: nn.Module) -> None:
        """The engine samples from the model it was given; see Engine. What is cached is forgotten."""
        assert model is self.model, "the embedded engine samples from the model it was made with"
        assert not self.waiting and not any(self.rows.requests), "weights change only between requests"
        self.rows.forget()

    def _admit(self) -> list[tuple[int, int, int]]:
        """Give rows to waiting requests, in their order; return the spans of prefixes that no row holds yet.

        A request that could share what is about to be computed for another waits until that is done.
        """
        rows = self.rows
        num_running = sum(map(rows.is_active, range(rows.num_active)))
        admissions: list[Admission] = []
        computing: list[np.ndarray] = []
        deferred: list[SampleRequest] = []
        budget = self.max_prefill_tokens
        while self.waiting and num_running + len(admissions) < self.max_batch:
            request = self.waiting.popleft()
            source, num_cached = rows.longest_shared(request.prefix_ids)
            if _is_worth_waiting(request.prefix_ids, num_cached, computing):
                deferred.append(request)
                continue
            missing = len(request.prefix_ids) - 1 - num_cached
            if computing and missing > budget:
                deferred.append(request)
                break
            extends = source >= 0 and not rows.is_active(source) and num_cached == rows.num_cached[source]
            takes_row = extends and all(a.source != source or not a.takes_row for a in admissions)
            admissions.append(Admission(request, source, num_cached, takes_row))
            if missing > 0:
                computing.append(request.prefix_ids)
                budget -= missing
        self.waiting.extendleft(reversed(deferred))
        if not admissions and num_running == rows.num_active:
            return []
        return self._place(admissions)

    def _place(self, admissions: list[Admission]) -> list[tuple[int, int, int]]:
        """Arrange the rows; return (row, first, end) for each admitted prefix that still has to be computed."""
        longest = max((len(a.request.prefix_ids) + a.request.max_new_tokens for a in admissions), default=0)
        self.rows.reserve(0, -(-longest // CAPACITY_STEP) * CAPACITY_STEP)
        targets, sources, placed = self.rows.arrange(admissions)
        self.cache.reserve(*self.rows.shape)
        if targets:
            num_columns = int(self.rows.num_cached[targets].max())
            device = self._device()
            self.cache.move(torch.tensor(targets, device=device), torch.tensor(sources, device=device), num_columns)
        ends = [len(a.request.prefix_ids) - 1 for a in admissions]
        spans = zip(placed, (a.num_cached for a in admissions), ends, strict=True)
        return [(row, start, end) for row, start, end in spans if start < end]

    def _prefill(self, spans: list[tuple[int, int, int]]) -> None:
        """Compute keys and values of the spans; no logits are needed, since the last token is fed when decoding."""
        ids = np.concatenate([self.rows.ids[row, start:end] for row, start, end in spans])
        positions = np.concatenate([np.arange(start, end) for _, start, end in spans])
        self._forward(ids, positions, PrefillAttention(self.cache, spans), num_logits=1)
        for row, _, end in spans:
            self.rows.num_cached[row] = end
        self.num_prefilled += len(ids)

    def _decode(self) -> tuple[np.ndarray, np.ndarray]:
        """Feed each row its last known token and draw the next one: token ids and log-probabilities, [rows]."""
        rows, n = self.rows, self.rows.num_active
        positions = rows.num_known[:n] - 1
        context = DecodeAttention(self.cache, torch.from_numpy(positions).to(self._device()))
        logits = self._forward(rows.ids[np.arange(n), positions], positions, context, num_logits=n)
        requests = [r for r in rows.requests[:n] if r is not None]
        assert len(requests) == n, "rows that decode lie side by side"
        seeds = np.array([r.seed for r in requests], np.uint64)
        temperatures = np.array([r.temperature for r in requests])
        self.num_decoded += n
        return draw(logits, temperatures, uniforms(seeds, positions + 1))

    def _collect(self, tokens: np.ndarray, logprobs: np.ndarray) -> list[SampleResult]:
        """Append a token to each row and hand out the segments that are complete."""
        if not np.isfinite(logprobs).all():
            raise FloatingPointError("the model's logits are not finite")
        rows, n = self.rows, self.rows.num_active
        at = np.arange(n), rows.num_known[:n]
        rows.ids[at], rows.logprobs[at] = tokens, logprobs
        rows.num_known[:n] += 1
        rows.num_cached[:n] += 1
        ended = np.isin(tokens, self.eos_ids)
        results = []
        for row in range(n):
            request = rows.requests[row]
            assert request is not None
            start, end = len(request.prefix_ids), int(rows.num_known[row])
            if not ended[row] and end - start < request.max_new_tokens:
                continue
            new = slice(start, end)
            segment = rows.ids[row, new].copy(), rows.logprobs[row, new].copy()
            results.append(SampleResult(request.request_id, *segment, bool(ended[row])))
            rows.requests[row] = None
            rows.last_used[row] = self.num_steps
        return results

    def _forward(
        self, ids: np.ndarray, positions: np.ndarray, context: AttentionContext, num_logits: int
    ) -> torch.Tensor:
        """Logits [num_logits, V] of the last tokens of a flat sequence."""
        device = self._device()
        return self.model(
            input_ids=torch.from_numpy(ids).to(device, torch.long)[None],
            position_ids=torch.from_numpy(positions).to(device)[None],
            use_cache=False,
            logits_to_keep=num_logits,
            attention_context=context,
        ).logits[0]

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _is_worth_waiting(prefix: np.ndarray, num_cached: int, computing: list[np.ndarray]) -> bool:
    """Whether a prefix that is about to be computed spares this one its missing tokens, or a good part of them."""
    missing = len(prefix) - 1 - num_cached
    if missing <= 0:
        return False
    return any(_num_shared(prefix[:-1], other[:-1]) - num_cached >= min(missing, WORTH_WAITING) for other in computing)


def _num_shared(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common prefix."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length

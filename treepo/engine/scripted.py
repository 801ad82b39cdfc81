"""A deterministic engine without a model, for tests, docs and examples."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from treepo.engine.base import Engine, EngineCounters, SampleRequest, SampleResult
from treepo.utils.numeric import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Script = Callable[[np.ndarray, int], tuple[int, float]]
"""(ids so far, seed of this position) -> (next token id, its log-probability)."""


class ScriptedEngine(Engine):
    """Decodes by calling `script` for each token; up to `max_num_seqs` requests advance one token a step.

    A script returns tokens, not logits, so `SampleRequest.sampling` has nothing to change.
    """

    def __init__(self, script: Script, eos_ids: tuple[int, ...] = (), max_num_seqs: int = 256) -> None:
        self.script = script
        self.eos_ids = frozenset(eos_ids)
        self.max_num_seqs = max_num_seqs
        self.waiting: list[SampleRequest] = []
        self.running: dict[int, tuple[SampleRequest, list[int], list[float]]] = {}
        self.counters = EngineCounters()

    @property
    def num_free_slots(self) -> int:
        return self.max_num_seqs - len(self.running) - len(self.waiting)

    def submit(self, request: SampleRequest) -> None:
        assert request.request_id not in self.running, f"request {request.request_id} is already running"
        self.waiting.append(request)

    def step(self) -> list[SampleResult]:
        """Advance the running requests by one token."""
        while self.waiting and len(self.running) < self.max_num_seqs:
            request = self.waiting.pop(0)
            self.running[request.request_id] = (request, [], [])
        self.counters = self.counters.plus(num_steps=1, num_slots=self.max_num_seqs, num_decoded=len(self.running))
        finished = []
        for request, tokens, logprobs in list(self.running.values()):
            ids = np.concatenate([request.prefix_ids, np.array(tokens, np.int32)])
            token, logprob = self.script(ids, derive_seed(request.seed, len(ids)))
            tokens.append(token)
            logprobs.append(logprob)
            ended = token in self.eos_ids
            if ended or len(tokens) == request.max_new_tokens:
                del self.running[request.request_id]
                arrays = np.array(tokens, np.int32), np.array(logprobs, np.float32)
                finished.append(SampleResult(request.request_id, *arrays, ended))
        return finished

    def abort_group(self, group: int) -> None:
        self.waiting = [r for r in self.waiting if r.group != group]
        self.running = {i: parts for i, parts in self.running.items() if parts[0].group != group}

    def update_weights(self, model: "PreTrainedModel") -> None:
        """Do nothing: a script has no weights."""
        assert not self.waiting and not self.running, "weights change only between requests"
        self.num_updates += 1

    def close(self) -> None:
        self.waiting.clear()
        self.running.clear()

"""TRL's own vLLM, colocated or a server, as an engine that decodes segments."""

from typing import Any

import numpy as np

from treepo.engine.base import EngineCounters, SampleRequest, SampleResult
from treepo.errors import EngineError, SettingError


def check_vllm(args: Any, num_processes: int) -> None:
    """Raise SettingError for a use of vLLM in which processes would have to ask for segments equally often."""
    if args.vllm_mode == "server" and num_processes > 1:
        message = "'server' takes the prompts of all processes together, which trees do not ask for at the same time; "
        raise SettingError("vllm_mode", message + "use 'colocate', or one process", args.vllm_mode)
    if args.vllm_mode == "colocate" and args.vllm_tensor_parallel_size > 1:
        message = "must be 1: processes that share a vLLM do not ask for segments at the same time"
        raise SettingError("vllm_tensor_parallel_size", message, args.vllm_tensor_parallel_size)
    if args.vllm_enable_sleep_mode:
        message = "must be off: TRL's vLLM would fall asleep after each segment and load the weights again"
        raise SettingError("vllm_enable_sleep_mode", message, True)


class TrlVllmEngine:
    """Engine over TRL's VLLMGeneration: each step decodes all requests to their ends in one call.

    Sampling is that of the trainer's settings, and so are the seeds: those of requests are not used. TRL gives vLLM
    new weights. A request that is shorter than the longest one of its step is decoded as far as that one and cut.
    """

    def __init__(self, generation: Any, eos_ids: list[int]) -> None:
        self.generation = generation
        self.eos_ids = frozenset(eos_ids)
        self.waiting: list[SampleRequest] = []
        self.counters = EngineCounters()

    num_free_slots = kv_cache_tokens = max_model_len = 2**62
    peak_tokens = num_updates = 0
    cache_bytes = None
    reads_model = is_shared = False

    def submit(self, request: SampleRequest) -> None:
        self.waiting.append(request)

    def step(self) -> list[SampleResult]:
        """Decode every waiting request. Raises EngineError if vLLM returns a log-probability that is not a number."""
        requests, self.waiting = self.waiting, []
        if not requests:
            return []
        limit, self.generation.max_completion_length = (
            self.generation.max_completion_length,
            max(r.max_new_tokens for r in requests),
        )
        try:
            _, ids, logprobs, _ = self.generation.generate(
                prompts=[r.prefix_ids.tolist() for r in requests], images=None, num_generations=1
            )
        finally:
            self.generation.max_completion_length = limit
        results = [self._result(*each) for each in zip(requests, ids, logprobs, strict=True)]
        self.counters = self.counters.plus(num_steps=1, num_decoded=sum(len(own) for own in ids))
        return results

    def _result(self, request: SampleRequest, ids: list[int], logprobs: list[list[float | None]]) -> SampleResult:
        kept = list(ids)[: request.max_new_tokens]
        first = [tokens[0] for tokens in logprobs[: len(kept)]]
        if any(value is None for value in first):
            raise EngineError("vLLM returned a log-probability that is not a number")
        ended = kept[-1] in self.eos_ids
        return SampleResult(request.request_id, np.array(kept, np.int32), np.array(first, np.float32), ended)

    def abort_group(self, group: int) -> None:
        self.waiting = [r for r in self.waiting if r.group != group]

    def sleep(self) -> None:
        """TRL decides when its vLLM sleeps."""

    def update_weights(self, model: Any) -> None:
        """TRL gives its vLLM new weights."""

    def join_update(self, model: Any) -> None:
        """Do nothing: TRL gives vLLM new weights."""

    def close(self) -> None:
        self.waiting = []

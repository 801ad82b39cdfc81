"""The rows of vLLM's batch, each drawing from its own random stream.

vLLM lets a logits processor change what tokens are sampled from. Ours draws the token itself, as every engine here
does, and leaves vLLM no other choice: so trees are the same, token for token, as those of the embedded engine, a
segment decoded in two requests equals one decoded in one, and log-probabilities are those before anything is left out.

Letters: R rows · V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from treepo.engine.base import EngineCounters, SampleRequest, SampleResult
from treepo.engine.sampling import BatchSamplingParams, sample_tokens, uniforms
from treepo.model.policy import exported_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# pyright: reportMissingImports=false


@dataclass(frozen=True, eq=False)
class Stream:
    """What one request is drawn from, and the log-probabilities of what was drawn: float32 [max_new_tokens]."""

    request: SampleRequest
    logprobs: np.ndarray


class RequestGenerators:
    """Which stream each row of the batch draws from; vLLM tells when rows are taken, left and moved.

    streams: of the requests that vLLM knows, by their names. Every row holds one of them and the list of the tokens
    that vLLM has drawn for it so far, which vLLM keeps up to date.
    """

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.rows: dict[int, tuple[Stream, list[int]]] = {}
        self.order: list[tuple[Stream, list[int]]] | None = None

    def begin(self, name: str, request: SampleRequest) -> None:
        """Before vLLM is asked for it."""
        self.streams[name] = Stream(request, np.zeros(request.max_new_tokens, np.float32))

    def finish(self, name: str) -> np.ndarray:
        """Forget a request; its log-probabilities, float32 [max_new_tokens], of which those that were drawn count."""
        return self.streams.pop(name).logprobs

    def update(self, removed: Iterable[int], added: Iterable[tuple], moved: Iterable[tuple[int, int, bool]]) -> None:
        """Rows that were left; (row, name, tokens so far) that were taken; (from, to, is it a swap) that moved.

        A request may enter a row that another one leaves in the same step, so that removing comes first.
        """
        self.order = None
        for row in removed:
            self.rows.pop(row, None)
        for row, name, tokens in added:
            self.rows[row] = self.streams[name], tokens
        for source, target, is_swap in moved:
            leaving, entering = self.rows.pop(target, None), self.rows.pop(source, None)
            if entering is not None:
                self.rows[target] = entering
            if is_swap and leaving is not None:
                self.rows[source] = leaving

    def sample_tokens(self, logits: Tensor) -> Tensor:
        """[R, V] -> [R, V]: 0 for the token that each row draws, and minus infinity for all others, in place.

        A row whose prefix is computed in several parts draws at the end of each, from the same number; the last draw,
        the only one that vLLM keeps, is the one that stays noted.
        """
        if self.order is None:
            self.order = [self.rows[row] for row in range(len(self.rows))]
            self.seeds = np.array([stream.request.seed for stream, _ in self.order], np.uint64)
            self.starts = np.array([len(stream.request.prefix_ids) for stream, _ in self.order])
            self.params = BatchSamplingParams.of([stream.request.sampling for stream, _ in self.order])
        assert len(logits) == len(self.order), "one row of logits per request"
        counts = np.fromiter((len(tokens) for _, tokens in self.order), np.int64, len(self.order))
        numbers = uniforms(self.seeds, self.starts + counts)
        tokens, logprobs = sample_tokens(logits, np.arange(len(logits)), self.params, numbers)
        for (stream, _), position, logprob in zip(self.order, counts.tolist(), logprobs.tolist(), strict=True):
            stream.logprobs[position] = logprob
        places = torch.from_numpy(tokens).long().to(logits.device)[:, None]
        return logits.fill_(float("-inf")).scatter_(1, places, 0.0)


NAME = "treepo"
"""Under which vLLM's own settings of a request carry its name."""


def make_processor(streams: RequestGenerators) -> type:
    """The class of logits processors, as vLLM makes them, over these streams; vLLM must be installed."""
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality  # noqa: PLC0415

    class StreamProcessor(LogitsProcessor):
        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            pass

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            if batch_update is not None:
                added = [(row, p.extra_args[NAME], tokens) for row, p, _, tokens in batch_update.added if p.extra_args]
                swap = MoveDirectionality.SWAP
                moved = [(source, target, how == swap) for source, target, how in batch_update.moved]
                streams.update(batch_update.removed, added, moved)

        def apply(self, logits: Tensor) -> Tensor:
            return streams.sample_tokens(logits)

    return StreamProcessor


# pyright: reportMissingImports=false, reportAttributeAccessIssue=false


class VllmEngine:
    """Decodes with vLLM, drawing from the same random streams as every engine.

    core: an LLMEngine whose rows draw from `streams`; see start_vllm. can_sleep: whether it was started so that it can
    give memory back. What vLLM's prefix cache holds is shared by all groups, and forgotten least recently used
    first; releasing a group only ends its requests.
    """

    def __init__(self, core: Any, streams: RequestGenerators, eos_ids: Sequence[int], can_sleep: bool = False) -> None:
        self.core = core
        self.streams = streams
        self.eos_ids = list(eos_ids)
        self.can_sleep = can_sleep
        self.under_way: dict[str, SampleRequest] = {}
        self.names = count()
        self.peak_tokens = 0
        self.num_steps = self.num_decoded = self.num_prefilled = self.num_cached = 0

    @property
    def max_num_seqs(self) -> int:
        """Requests decoded at a time."""
        return self._config.scheduler_config.max_num_seqs

    @property
    def block_size(self) -> int:
        """Tokens per block of the cache."""
        return self._config.cache_config.block_size

    @property
    def num_free_slots(self) -> int:
        """See Engine."""
        return self.max_num_seqs - len(self.under_way)

    @property
    def kv_cache_tokens(self) -> int:
        """See Engine. One block is vLLM's own."""
        return (self._config.cache_config.num_gpu_blocks - 1) * self.block_size

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, prefix and response."""
        return self._config.model_config.max_model_len

    @property
    def counters(self) -> EngineCounters:
        """See Engine; of the requests that are done. What was cached is what vLLM reports; what it computes again
        because it made a request wait is not told."""
        num_slots = self.num_steps * self.max_num_seqs
        return EngineCounters(self.num_steps, num_slots, self.num_decoded, self.num_prefilled, self.num_cached)

    def submit(self, request: SampleRequest) -> None:
        """Queue one request; see Engine. Raises ValueError if it can never fit."""
        from vllm import SamplingParams  # noqa: PLC0415 - an extra
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        assert len(request.prefix_ids) > 0 and request.max_new_tokens > 0
        length = len(request.prefix_ids) + request.max_new_tokens
        if length > self.max_model_len:
            raise ValueError(f"max_len must hold a sequence of {length} tokens, got {self.max_model_len}")
        # vLLM accepts a name twice and then loses one of the two.
        name = str(next(self.names))
        self.streams.begin(name, request)
        params = SamplingParams(
            # The rows draw for themselves and leave one token to choose.
            temperature=0.0,
            extra_args={NAME: name},
            max_tokens=request.max_new_tokens,
            # A tokenizer may have more tokens than the model, which vLLM refuses.
            stop_token_ids=[i for i in self.eos_ids if i < self._config.model_config.get_vocab_size()],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self.core.add_request(name, {"prompt_token_ids": request.prefix_ids.tolist()}, params)
        self.under_way[name] = request

    def step(self) -> list[SampleResult]:
        """Decode one token for every running request; see Engine.

        Raises FloatingPointError if logits were not finite; all requests are then lost.
        """
        if not self.under_way:
            return []
        outputs = self.core.step()
        self.num_steps += 1
        self.peak_tokens = max(self.peak_tokens, self._num_held())
        finished = [output for output in outputs if output.finished and output.request_id in self.under_way]
        results = [self._result(output) for output in finished]
        if not all(np.isfinite(result.logprobs).all() for result in results):
            self._start_over()
            raise FloatingPointError("the model's logits are not finite")
        return results

    def _start_over(self) -> None:
        """End all requests and clear the cache: blocks that hold a NaN spoil whatever is later computed over them,
        since attention gives unused places of a block the weight 0, and 0 x NaN is NaN."""
        self._end(list(self.under_way))
        self.core.collective_rpc(_clear_cache)
        self._forget_prefixes()

    def _result(self, output: Any) -> SampleResult:
        """What was drawn for a request that is done; nothing is kept of it."""
        request = self.under_way.pop(output.request_id)
        tokens = np.array(output.outputs[0].token_ids, np.int32)
        logprobs = self.streams.finish(output.request_id)[: len(tokens)]
        num_cached = output.num_cached_tokens or 0
        self.num_decoded += len(tokens)
        self.num_cached += num_cached
        self.num_prefilled += len(request.prefix_ids) - 1 - num_cached
        return SampleResult(request.request_id, tokens, logprobs, bool(tokens[-1] in self.eos_ids))

    def _num_held(self) -> int:
        """Tokens in the blocks of running requests."""
        cache = self.core.engine_core.engine_core.scheduler.kv_cache_manager
        return round(cache.usage * self.kv_cache_tokens)

    def abort_group(self, group: int) -> None:
        """See Engine."""
        self._end([name for name, request in self.under_way.items() if request.group == group])

    def _end(self, names: list[str]) -> None:
        self.core.abort_request(names)
        for name in names:
            del self.under_way[name]
            self.streams.finish(name)

    def sleep(self) -> None:
        """Give weights and cache back where vLLM can; see Engine."""
        assert not self.under_way, "an engine rests only between requests"
        if self.can_sleep:
            self.core.sleep(level=2)

    def update_weights(self, model: "PreTrainedModel") -> None:
        """Hand the model's weights to vLLM and drop its cache; see Engine."""
        assert not self.under_way, "weights change only between requests"
        is_asleep = self.can_sleep and self.core.is_sleeping()
        if is_asleep:
            self.core.wake_up(tags=["weights"])
        self.core.collective_rpc("reload_weights", kwargs={"weights_iterator": exported_weights(model)})
        if is_asleep:
            self.core.wake_up(tags=["kv_cache"])
        self._forget_prefixes()
        self.peak_tokens = 0

    def _forget_prefixes(self) -> None:
        if not self.core.reset_prefix_cache():
            raise RuntimeError("vLLM kept what it had cached under the old weights")

    @property
    def _config(self) -> Any:
        return self.core.vllm_config


def _clear_cache(worker: Any) -> None:
    """Run by vLLM in its worker: zeros in every block."""
    for cache in worker.model_runner.kv_caches:
        cache.zero_()

"""VllmEngine: vLLM in this process."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from treepo.engine.base import EngineCounters, SampleRequest, SampleResult
from treepo.engine.sampling import BatchSamplingParams, sample_tokens, uniforms
from treepo.engine.transfer import send
from treepo.engine.vllm.world import memory_beside_trainer, shut_down
from treepo.errors import SettingError
from treepo.model.exported import ExportedWeights
from treepo.model.fsdp import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

REQUEST_NAME = "treepo"
"""Key under which vLLM's sampling parameters of a request carry its name."""


@dataclass(frozen=True, eq=False)
class Stream:
    """A request and the log-probabilities of the tokens that were sampled for it: float32 [max_new_tokens]."""

    request: SampleRequest
    logprobs: np.ndarray


class RequestGenerators:
    """The random stream of each row of vLLM's batch; vLLM reports which rows are taken, left and moved.

    streams: of the requests that vLLM has, by name. rows: the stream of each row, and the list of the tokens sampled
    for it so far, which vLLM keeps up to date.
    """

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.rows: dict[int, tuple[Stream, list[int]]] = {}
        self.order: list[tuple[Stream, list[int]]] | None = None

    def begin(self, name: str, request: SampleRequest) -> None:
        """Make the stream of a request; call before the request is given to vLLM."""
        self.streams[name] = Stream(request, np.zeros(request.max_new_tokens, np.float32))

    def finish(self, name: str) -> np.ndarray:
        """Forget a request and return its log-probabilities, float32 [max_new_tokens]; those of its tokens are set."""
        return self.streams.pop(name).logprobs

    def update(self, removed: Iterable[int], added: Iterable[tuple], moved: Iterable[tuple[int, int, bool]]) -> None:
        """Follow a change of the batch: rows left; (row, name, tokens so far) taken; (from, to, whether they swap).

        A request may take a row that another one leaves in the same step, so removing comes first.
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
        """[R, V] -> [R, V] in place: 0 for the token that each row samples, and minus infinity for all others.

        A row whose prefix is computed in several parts samples at the end of each, from the same number; vLLM keeps the
        token of the last part alone, and so do the log-probabilities.
        """
        if self.order is None:
            self.order = [self.rows[row] for row in range(len(self.rows))]
            self.seeds = np.array([stream.request.seed for stream, _ in self.order], np.uint64)
            self.prefix_lens = np.array([len(stream.request.prefix_ids) for stream, _ in self.order])
            self.params = BatchSamplingParams.of([stream.request.sampling for stream, _ in self.order])
        assert len(logits) == len(self.order), "one row of logits per request"
        counts = np.fromiter((len(tokens) for _, tokens in self.order), np.int64, len(self.order))
        numbers = uniforms(self.seeds, self.prefix_lens + counts)
        each = np.arange(len(logits))
        tokens, logprobs = sample_tokens(logits, each, self.params, numbers, known_ids=self._known_ids)
        for (stream, _), position, logprob in zip(self.order, counts.tolist(), logprobs.tolist(), strict=True):
            stream.logprobs[position] = logprob
        [columns] = send([tokens.astype(np.int64)], logits.device)
        return logits.fill_(float("-inf")).scatter_(1, columns[:, None], 0.0)

    def _known_ids(self, row: int) -> np.ndarray:
        """int32: prompt and output of a row so far."""
        assert self.order is not None
        stream, tokens = self.order[row]
        return np.concatenate([stream.request.prefix_ids, np.array(tokens, np.int32)])


def make_processor(generators: RequestGenerators) -> type:
    """Return the class of logits processors over these generators, of which vLLM makes an instance."""
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality  # noqa: PLC0415

    class RequestProcessor(LogitsProcessor):
        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            pass

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            if batch_update is None:
                return
            added = [
                (row, params.extra_args[REQUEST_NAME], tokens)
                for row, params, _, tokens in batch_update.added
                if params.extra_args
            ]
            swap = MoveDirectionality.SWAP
            moved = [(source, target, direction == swap) for source, target, direction in batch_update.moved]
            generators.update(batch_update.removed, added, moved)

        def apply(self, logits: Tensor) -> Tensor:
            return generators.sample_tokens(logits)

    return RequestProcessor


class VllmEngine:
    """Decodes with vLLM, sampling from the same random streams as every engine.

    core: an LLMEngine whose rows sample with `generators`; see start_vllm. can_sleep: whether it was started so that it
    can free its memory. All groups share vLLM's prefix cache, which evicts what was used least recently: aborting a
    group only ends its requests.
    """

    reads_model = False
    is_shared = False

    def __init__(
        self, core: Any, generators: RequestGenerators, eos_ids: Iterable[int], can_sleep: bool = False
    ) -> None:
        self.core: Any = core
        self.generators = generators
        self.eos_ids = list(eos_ids)
        self.can_sleep = can_sleep
        self.running: dict[str, SampleRequest] = {}
        self.names = count()
        self.peak_tokens = 0
        # Of finished requests; vLLM does not report what it computes again after a preemption.
        self.counters = EngineCounters()
        self.num_updates = 0

    @property
    def max_num_seqs(self) -> int:
        """Requests decoded at a time."""
        return self._config.scheduler_config.max_num_seqs

    @property
    def num_free_slots(self) -> int:
        return self.max_num_seqs - len(self.running)

    @property
    def kv_cache_tokens(self) -> int:
        # One block is vLLM's own.
        cache = self._config.cache_config
        return (cache.num_gpu_blocks - 1) * cache.block_size

    @property
    def cache_bytes(self) -> None:
        return None

    @property
    def max_model_len(self) -> int:
        return self._config.model_config.max_model_len

    def submit(self, request: SampleRequest) -> None:
        from vllm import SamplingParams  # noqa: PLC0415 - an extra
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        assert len(request.prefix_ids) > 0 and request.max_new_tokens > 0
        length = len(request.prefix_ids) + request.max_new_tokens
        if length > self.max_model_len:
            raise SettingError("vllm.max_model_len", f"must hold a sequence of {length} tokens", self.max_model_len)
        # vLLM accepts a name twice and then loses one of the two.
        name = str(next(self.names))
        self.generators.begin(name, request)
        params = SamplingParams(
            # The logits processor leaves one token to choose.
            temperature=0.0,
            extra_args={REQUEST_NAME: name},
            max_tokens=request.max_new_tokens,
            # A tokenizer may have more tokens than the model, which vLLM refuses.
            stop_token_ids=[i for i in self.eos_ids if i < self._config.model_config.get_vocab_size()],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self.core.add_request(name, {"prompt_token_ids": request.prefix_ids.tolist()}, params)
        self.running[name] = request

    def step(self) -> list[SampleResult]:
        """Decode one token for every running request; where logits are not finite all requests are lost."""
        if not self.running:
            return []
        outputs = self.core.step()
        self.counters = self.counters.plus(num_steps=1, num_slots=self.max_num_seqs)
        self.peak_tokens = max(self.peak_tokens, self._num_held())
        finished = [output for output in outputs if output.finished and output.request_id in self.running]
        results = [self._result(output) for output in finished]
        if not all(np.isfinite(result.logprobs).all() for result in results):
            self._start_over()
            raise FloatingPointError("the model's logits are not finite")
        return results

    def _start_over(self) -> None:
        """End all requests and clear the cache: blocks that hold a NaN spoil whatever is later computed over them,
        since attention gives unused places of a block the weight 0, and 0 x NaN is NaN."""
        self._abort(list(self.running))
        self.core.collective_rpc(_clear_cache)
        self._forget_prefixes()

    def _result(self, output: Any) -> SampleResult:
        """Take what was sampled for a request that is finished, and forget the request."""
        request = self.running.pop(output.request_id)
        tokens = np.array(output.outputs[0].token_ids, np.int32)
        logprobs = self.generators.finish(output.request_id)[: len(tokens)]
        num_cached = output.num_cached_tokens or 0
        num_prefilled = len(request.prefix_ids) - 1 - num_cached
        self.counters = self.counters.plus(num_decoded=len(tokens), num_prefilled=num_prefilled, num_cached=num_cached)
        return SampleResult(request.request_id, tokens, logprobs, bool(tokens[-1] in self.eos_ids))

    def _num_held(self) -> int:
        """Tokens in the blocks of running requests."""
        cache = self.core.engine_core.engine_core.scheduler.kv_cache_manager
        return round(cache.usage * self.kv_cache_tokens)

    def abort_group(self, group: int) -> None:
        self._abort([name for name, request in self.running.items() if request.group == group])

    def _abort(self, names: list[str]) -> None:
        self.core.abort_request(names)
        for name in names:
            del self.running[name]
            self.generators.finish(name)

    def sleep(self) -> None:
        """Free the memory of weights and cache where vLLM can."""
        assert not self.running, "an engine sleeps only between requests"
        if self.can_sleep:
            self.core.sleep(level=2)

    def update_weights(self, model: "PreTrainedModel") -> None:
        """Hand the model's weights to vLLM and clear its prefix cache."""
        assert not self.running, "weights change only between requests"
        self.num_updates += 1
        is_asleep = self.can_sleep and self.core.is_sleeping()
        # Of a sharded model half as much is sent in bfloat16; a whole one's weights vLLM converts itself.
        weights = ExportedWeights(model, self._config.model_config.dtype if is_sharded(model) else None)
        try:
            with memory_beside_trainer():
                if is_asleep:
                    # What PyTorch holds of the trainer's memory; vLLM takes its own past it.
                    torch.cuda.empty_cache()
                    self.core.wake_up(tags=["weights"])
                self.core.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
                if is_asleep:
                    self.core.wake_up(tags=["kv_cache"])
                    # Where it lies now, the trainer may have left a NaN; see _start_over.
                    self.core.collective_rpc(_clear_cache)
        finally:
            # Other processes wait for this one's shards, also after an error.
            weights.finish()
        self._forget_prefixes()
        self.peak_tokens = 0

    def join_update(self, model: "PreTrainedModel") -> None:
        pass

    def close(self) -> None:
        """Shut vLLM down. Other instances of vLLM in this process break then: they share its process groups."""
        if self.core is None:
            return
        try:
            self._abort(list(self.running))
        finally:
            shut_down(self.core)
            self.core = None

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

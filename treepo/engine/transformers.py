"""TransformersEngine: any decoder as transformers runs it, for models that the embedded engine cannot serve.

It has no cache between requests: the prefix of every request is computed anew. Requests whose prefixes have the same
length are decoded together, so that nothing is padded.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from treepo.engine.base import Engine, EngineCounters, SampleRequest, SampleResult
from treepo.engine.sampling import BatchSamplingParams, sample_tokens, uniforms
from treepo.utils.foreign_errors import first_line, is_out_of_memory

logger = logging.getLogger(__name__)

UNKNOWN_MODEL_LEN = 1 << 20
"""Assumed for models that do not say how many tokens a sequence may have."""


class TransformersEngine(Engine):
    """Decodes through `model.generate`, one batch of equally long prefixes at a time.

    max_num_seqs: requests decoded at a time. autocast: type of the matrix products; that of the weights if not given.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: Sequence[int],
        max_num_seqs: int = 256,
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.autocast = autocast
        # Typed loosely: transformers mixes it in at run time.
        self.generate: Any = model.generate
        self.eos_ids = list(eos_ids)
        self.max_num_seqs = max_num_seqs
        self.waiting: list[SampleRequest] = []
        self.counters = EngineCounters()

    @property
    def num_free_slots(self) -> int:
        return self.max_num_seqs - len(self.waiting)

    @property
    def kv_cache_tokens(self) -> int:
        return self.max_num_seqs * UNKNOWN_MODEL_LEN

    @property
    def max_model_len(self) -> int:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or UNKNOWN_MODEL_LEN

    def submit(self, request: SampleRequest) -> None:
        assert len(request.prefix_ids) > 0 and request.max_new_tokens > 0
        self.waiting.append(request)

    def abort_group(self, group: int) -> None:
        self.waiting = [request for request in self.waiting if request.group != group]

    def update_weights(self, model: torch.nn.Module) -> None:
        """Do nothing: the weights are those of the engine's own model."""
        assert model is self.model, "the engine samples from the model it was made with"
        assert not self.waiting, "weights change only between requests"
        self.num_updates += 1

    def close(self) -> None:
        self.waiting.clear()

    def step(self) -> list[SampleResult]:
        """Decode the requests whose prefix is as long as that of the one that waits longest, to their ends.

        Where memory runs out, they wait and go on with half as many at a time. Raises MemoryError, with the setting to
        change, if it runs out with a single one.
        """
        if not self.waiting:
            return []
        length = len(self.waiting[0].prefix_ids)
        batch = [request for request in self.waiting if len(request.prefix_ids) == length][: self.max_num_seqs]
        try:
            results = self._decode(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                message = "engine.max_num_seqs: out of memory with a single sequence that is decoded"
                raise MemoryError(f"{message} ({first_line(error)})") from error
            self.max_num_seqs = len(batch) // 2
        else:
            chosen = {request.request_id for request in batch}
            self.waiting = [request for request in self.waiting if request.request_id not in chosen]
            return results
        # Not while the error is handled: it keeps the tensors of the failed forward alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory while decoding: from now on engine.max_num_seqs is %d", self.max_num_seqs)
        return []

    def _decode(self, batch: Sequence[SampleRequest]) -> list[SampleResult]:
        """Decode requests whose prefixes have the same length."""
        length = len(batch[0].prefix_ids)
        sampler = _Sampler(batch)
        prefixes = torch.from_numpy(np.stack([request.prefix_ids for request in batch])).long().to(self.model.device)
        settings = GenerationConfig(
            max_new_tokens=max(request.max_new_tokens for request in batch),
            eos_token_id=self.eos_ids or None,
            pad_token_id=self.eos_ids[0] if self.eos_ids else 0,
        )
        device = self.model.device.type
        precision = torch.autocast(device, self.autocast, enabled=self.autocast is not None)
        with torch.no_grad(), precision, _without_own_settings(self.model):
            self.generate(
                prefixes,
                generation_config=settings,
                attention_mask=torch.ones_like(prefixes),
                logits_processor=LogitsProcessorList([sampler]),
            )
        results = [self._result(request, *sampler.sampled(row)) for row, request in enumerate(batch)]
        num_steps = len(sampler.tokens)
        self.counters = self.counters.plus(
            num_steps=num_steps,
            num_slots=num_steps * self.max_num_seqs,
            num_decoded=sum(len(result.token_ids) for result in results),
            num_prefilled=len(batch) * (length - 1),
        )
        return results

    def _result(self, request: SampleRequest, tokens: np.ndarray, logprobs: np.ndarray) -> SampleResult:
        """What was sampled up to its end."""
        ends = np.flatnonzero(np.isin(tokens, self.eos_ids))
        count = min(request.max_new_tokens, int(ends[0]) + 1 if len(ends) else len(tokens))
        if not np.isfinite(logprobs[:count]).all():
            raise FloatingPointError("the model's logits are not finite")
        has_ended = bool(np.isin(tokens[count - 1], self.eos_ids))
        return SampleResult(request.request_id, tokens[:count], logprobs[:count], has_ended)


@contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """`generate` would fill in a model's own settings, such as a repetition penalty, which change its distribution."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class _Sampler(LogitsProcessor):
    """Samples each row's token from its own random stream and leaves `generate` no other choice."""

    def __init__(self, batch: Sequence[SampleRequest]) -> None:
        self.seeds = np.array([request.seed for request in batch])
        self.params = BatchSamplingParams.of([request.sampling for request in batch])
        self.tokens: list[np.ndarray] = []
        self.logprobs: list[np.ndarray] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: logits [B, V] of the token after input_ids [B, n]."""
        rows, length = input_ids.shape
        numbers = uniforms(self.seeds, np.full(rows, length))
        tokens, logprobs = sample_tokens(
            scores, np.arange(rows), self.params, numbers, known_ids=lambda row: input_ids[row].cpu().numpy()
        )
        self.tokens.append(tokens)
        self.logprobs.append(logprobs)
        places = torch.from_numpy(tokens).long().to(scores.device)[:, None]
        return torch.full_like(scores, float("-inf")).scatter_(1, places, 0.0)

    def sampled(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens, log-probabilities) of one row, also what was sampled after its end."""
        return np.array([t[row] for t in self.tokens], np.int32), np.array([x[row] for x in self.logprobs], np.float32)

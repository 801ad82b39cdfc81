"""Sampling inside vLLM: a logits processor that samples each row's token from its request's own random stream.

vLLM lets a logits processor change what tokens are sampled from. Ours samples the token itself, as every engine here
does, and leaves vLLM no other choice: so trees are the same, token for token, as those of the embedded engine, a
segment decoded in two requests equals one decoded in one, and log-probabilities are those before anything is left out.

Letters: R rows · V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treepo.engine.base import SampleRequest
from treepo.engine.sampling import BatchSamplingParams, sample_tokens, uniforms

# pyright: reportMissingImports=false

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
        tokens, logprobs = sample_tokens(logits, np.arange(len(logits)), self.params, numbers)
        for (stream, _), position, logprob in zip(self.order, counts.tolist(), logprobs.tolist(), strict=True):
            stream.logprobs[position] = logprob
        columns = torch.from_numpy(tokens).long().to(logits.device)[:, None]
        return logits.fill_(float("-inf")).scatter_(1, columns, 0.0)


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

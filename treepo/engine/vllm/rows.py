"""The rows of vLLM's batch, each drawing from its own random stream.

vLLM lets a logits processor change what tokens are sampled from. Ours draws the token itself, as every engine here
does, and leaves vLLM no other choice: so trees are the same, token for token, as those of the embedded engine, a
segment decoded in two requests equals one decoded in one, and log-probabilities are those before anything is left out.

Letters: R rows · V vocabulary.
"""

# pyright: reportMissingImports=false

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treepo.engine.base import SampleRequest
from treepo.engine.drawing import Draws, draw, uniforms


@dataclass(frozen=True, eq=False)
class Stream:
    """What one request is drawn from, and the log-probabilities of what was drawn: float32 [max_new_tokens]."""

    request: SampleRequest
    logprobs: np.ndarray


class RowStreams:
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

    def draw(self, logits: Tensor) -> Tensor:
        """[R, V] -> [R, V]: 0 for the token that each row draws, and minus infinity for all others, in place.

        A row whose prefix is computed in several parts draws at the end of each, from the same number; the last draw,
        the only one that vLLM keeps, is the one that stays noted.
        """
        if self.order is None:
            self.order = [self.rows[row] for row in range(len(self.rows))]
            self.seeds = np.array([stream.request.seed for stream, _ in self.order], np.uint64)
            self.starts = np.array([len(stream.request.prefix_ids) for stream, _ in self.order])
            self.how = Draws.of([stream.request.sampling for stream, _ in self.order])
        assert len(logits) == len(self.order), "one row of logits per request"
        counts = np.fromiter((len(tokens) for _, tokens in self.order), np.int64, len(self.order))
        numbers = uniforms(self.seeds, self.starts + counts)
        tokens, logprobs = draw(logits, np.arange(len(logits)), self.how, numbers)
        for (stream, _), count, logprob in zip(self.order, counts.tolist(), logprobs.tolist(), strict=True):
            stream.logprobs[count] = logprob
        places = torch.from_numpy(tokens).long().to(logits.device)[:, None]
        return logits.fill_(float("-inf")).scatter_(1, places, 0.0)


NAME = "treepo"
"""Under which vLLM's own settings of a request carry its name."""


def make_processor(streams: RowStreams) -> type:
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
            return streams.draw(logits)

    return StreamProcessor

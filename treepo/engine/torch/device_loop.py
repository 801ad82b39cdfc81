"""Decoding on a device without the host: several steps in a row, of which the host fetches all tokens at once.

Tokens, positions, slots and random numbers of the steps lie on the device. With CUDA a step is captured in a graph, so
that the host launches three things per step. Letters: R running rows · N rows of a step, with padding · n steps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from treepo.engine.sampling import SamplingKinds, draw, split_drawn, uniforms
from treepo.engine.torch.attention import DeviceAttention, GatherKernel, SlotTable
from treepo.engine.torch.batch import MIN_TOKENS, RunningBatch
from treepo.engine.torch.kv_cache import KVCache
from treepo.engine.torch.lookahead import Lookahead
from treepo.engine.transfer import pack_into, packed_size, unpacked
from treepo.model.forward import FusedForward


class DeviceLoop:
    """Decodes the steps of a Lookahead.

    Captured steps hold addresses: they are dropped as soon as one of the tensors that they read, `read`, is another.
    """

    def __init__(self, forward: FusedForward, kernel: GatherKernel, device: torch.device) -> None:
        self.forward = forward
        self.kernel = kernel
        self.device = device
        self.steps: dict[tuple[int, SamplingKinds], DeviceStep] = {}
        self.read: tuple[object, ...] = ()

    def release(self) -> None:
        """Free the memory of captured steps."""
        self.steps, self.read = {}, ()

    def run(self, batch: RunningBatch, cache: KVCache, ahead: Lookahead) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids int32 [n, R] and their log-probabilities float32 [n, R]; those that follow the end of a row
        mean nothing."""
        rows, num_steps = ahead.rows, ahead.slots.shape[1]
        size = padded_size(len(rows))
        # Rows that pad store where nothing reads, and see one slot.
        padded = np.concatenate([rows, np.full(size - len(rows), rows[0])])
        lens, slots = np.ones((num_steps, size), np.int32), np.full((num_steps, size), ahead.scratch, np.int32)
        lens[:, : len(rows)], slots[:, : len(rows)] = ahead.lens(batch).T, ahead.slots.T
        known = batch.num_known[padded]
        each_step = [
            [uniforms(batch.seeds[padded], known + i), lens[i] - np.int64(1), lens[i], slots[i]]
            for i in range(num_steps)
        ]
        params, ids = batch.params.of_rows(padded), batch.ids[padded, known - 1]
        all_steps = [ids.astype(np.int64), padded.astype(np.int32), *params.arrays()]
        packed = [packed_rows(each_step), packed_rows([all_steps])]
        table, sent = self.kernel.send_table(batch.slots, ahead.changed, packed, self.device)

        max_len = int(lens.max())
        self.forward.prepare(max_len)
        self._drop_outdated(table, cache)
        key = size, params.kinds
        if key not in self.steps:
            self.steps[key] = DeviceStep(self.forward, params.kinds, each_step[0], all_steps, self.device)
        context = self.steps[key].context(cache, self.kernel, table, max_len)
        tokens, logprobs = split_drawn(self.steps[key].run(sent[0], sent[1], context))
        return tokens[:, : len(rows)], logprobs[:, : len(rows)]

    def _drop_outdated(self, table: Tensor, cache: KVCache) -> None:
        stored = [tensor for layer in cache.layers.values() for tensor in layer]
        read = table, self.forward.layers, self.forward.cos, *stored
        if len(read) != len(self.read) or any(a is not b for a, b in zip(read, self.read, strict=True)):
            self.steps, self.read = {}, read


class DeviceStep:
    """A step of N rows, over buffers that stay where they are; with CUDA it is captured when it is made again.

    Of each step: numbers float64, positions int64, lens and slots int32 [N]. Of all steps of a loop: ids int64, which
    each step replaces; rows int32; params, as `draw` needs them. drawn: what a step drew.
    """

    def __init__(
        self,
        forward: FusedForward,
        kinds: SamplingKinds,
        each_step: Sequence[np.ndarray],
        all_steps: Sequence[np.ndarray],
        device: torch.device,
    ) -> None:
        self.forward = forward
        self.kinds = kinds
        self.packed = torch.empty(packed_size(each_step), dtype=torch.uint8, device=device)
        self.numbers, self.positions, self.lens, self.slots = unpacked(self.packed, each_step)
        self.packed_once = torch.empty(packed_size(all_steps), dtype=torch.uint8, device=device)
        self.ids, self.rows, *self.params = unpacked(self.packed_once, all_steps)
        self.every = torch.arange(len(all_steps[0]), device=device)
        self.drawn = torch.empty(2, len(all_steps[0]), dtype=torch.int32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.was_run = False

    def context(self, cache: KVCache, kernel: GatherKernel, table: Tensor, max_len: int) -> DeviceAttention:
        """Return the attention of the steps: over slots int32 [R, C], of which no row sees more than max_len."""
        return DeviceAttention(cache, kernel, SlotTable(table, self.rows, self.lens, max_len), self.slots)

    def run(self, each_step: Tensor, all_steps: Tensor, context: DeviceAttention) -> Tensor:
        """Return int32 [n, 2, N], what each step drew. each_step uint8 [n, bytes], all_steps uint8 [1, bytes]."""
        self.packed_once.copy_(all_steps[0])
        drawn = self.drawn.new_empty(len(each_step), *self.drawn.shape)
        for packed, target in zip(each_step.unbind(), drawn.unbind(), strict=True):
            self.packed.copy_(packed)
            self._advance(context)
            target.copy_(self.drawn)
        return drawn

    def _advance(self, context: DeviceAttention) -> None:
        if self.graph is None and self.was_run and context.kernel.is_capturable:
            # The first run has compiled kernels and chosen those of matrix products, which cannot be captured.
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._compute(context)
        if self.graph is None:
            self._compute(context)
            self.was_run = True
        else:
            self.graph.replay()

    def _compute(self, context: DeviceAttention) -> None:
        logits = self.forward(self.ids, self.positions, context, self.every, num_positions=context.table.max_len)
        self.drawn.copy_(draw(logits, self.numbers, self.kinds, self.params))
        self.ids.copy_(self.drawn[0])


def padded_size(num_rows: int) -> int:
    """Return how many rows are decoded for so many: 16, 24, 32, 48, 64, 96 ... Each size has its own graph, and at most
    a third is padding."""
    size = max(MIN_TOKENS, 1 << (num_rows - 1).bit_length())
    return size * 3 // 4 if size > MIN_TOKENS and num_rows <= size * 3 // 4 else size


def packed_rows(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return uint8 [n, bytes]: several arrays per row, one after the other."""
    packed = np.zeros((len(rows), packed_size(rows[0])), np.uint8)
    for target, arrays in zip(packed, rows, strict=True):
        pack_into(target, arrays)
    return packed

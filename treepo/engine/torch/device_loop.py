"""Decoding on a device without the host: several steps in a row, of which the host fetches all tokens at once.

Tokens, positions, slots and random numbers of the steps lie on the device. With CUDA a step is captured in a graph, so
that the host launches three things per step. Letters: R rows of the block table · N rows of a step, padded ·
n steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treepo.engine.sampling import SamplingKinds, draw, split_drawn
from treepo.engine.torch.attention import DeviceAttention, GatherKernel, SlotTable
from treepo.engine.torch.kv_cache import KVCache
from treepo.engine.transfer import pack_into, packed_size, unpacked
from treepo.model.forward import FusedForward
from treepo.utils.foreign_errors import first_line, is_out_of_memory


@dataclass(frozen=True, eq=False)
class LoopInputs:
    """What the host knows of n steps of N rows.

    each_step: for each step numbers float64, positions int64, lens and slots int32 [N]: with which numbers the rows
    sample, the places of the tokens that are computed, how many each of them sees, and where its keys and values go.
    all_steps: ids int64, the tokens of the first step, and rows of the block table int32 [N]; tiles int32 [T, 4] and
    slots in them int32 [N], see `query_tiles`; then BatchSamplingParams.arrays. table: the host's slots int32 [R, C];
    changed int64 [K]: see DeviceTable. max_len: the largest of lens.
    """

    each_step: list[list[np.ndarray]]
    all_steps: list[np.ndarray]
    kinds: SamplingKinds
    table: np.ndarray
    changed: np.ndarray
    max_len: int


class DeviceLoop:
    """Decodes steps whose inputs are known before.

    Captured steps hold addresses: they are dropped as soon as one of the tensors that they read, `read`, is another, or
    a weight lies elsewhere, as it does whenever a sharded model is gathered.
    """

    def __init__(self, forward: FusedForward, kernel: GatherKernel, device: torch.device) -> None:
        self.forward = forward
        self.kernel = kernel
        self.device = device
        self.steps: dict[tuple[int, int, SamplingKinds], DeviceStep] = {}
        self.read: tuple[object, ...] = ()
        self.addresses: list[int] = []
        self.pool: Any = None

    def release(self) -> None:
        """Free the memory of captured steps."""
        self.steps, self.read, self.addresses, self.pool = {}, (), [], None

    def run(self, inputs: LoopInputs, cache: KVCache) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids int32 [n, N] and their log-probabilities float32 [n, N]."""
        packed = [packed_rows(inputs.each_step), packed_rows([inputs.all_steps])]
        table, sent = self.kernel.send_table(inputs.table, inputs.changed, packed, self.device)
        self.forward.prepare(inputs.max_len)
        self._drop_outdated(table, cache)
        ids, _, tiles, *_ = inputs.all_steps
        key = len(ids), len(tiles), inputs.kinds
        if key not in self.steps:
            if self.kernel.is_capturable and self.pool is None:
                self.pool = torch.cuda.graph_pool_handle()
            self.steps[key] = DeviceStep(self.forward, inputs, self.device, self.pool)
        context = self.steps[key].context(cache, self.kernel, table, inputs.max_len)
        return split_drawn(self.steps[key].run(sent[0], sent[1], context))

    def _drop_outdated(self, table: Tensor, cache: KVCache) -> None:
        stored = [tensor for layer in cache.layers.values() for tensor in layer]
        read = table, self.forward.layers, self.forward.cos, *stored
        addresses = [weight.data_ptr() for weight in self.forward.model.parameters()]
        is_same = len(read) == len(self.read) and all(a is b for a, b in zip(read, self.read, strict=True))
        if not is_same or addresses != self.addresses:
            self.release()
            self.read, self.addresses = read, addresses


class DeviceStep:
    """A step of N rows and T tiles, over buffers that stay where they are; with CUDA it is captured when it is made
    again.

    See LoopInputs; each step replaces ids. drawn: what a step drew. pool: the memory that all graphs share, as only one
    runs at a time.
    """

    def __init__(self, forward: FusedForward, inputs: LoopInputs, device: torch.device, pool: Any) -> None:
        self.forward = forward
        self.pool = pool
        self.kinds = inputs.kinds
        each_step, all_steps = inputs.each_step[0], inputs.all_steps
        self.packed = torch.empty(packed_size(each_step), dtype=torch.uint8, device=device)
        self.numbers, self.positions, self.lens, self.slots = unpacked(self.packed, each_step)
        self.packed_once = torch.empty(packed_size(all_steps), dtype=torch.uint8, device=device)
        self.ids, self.rows, self.tiles, self.in_tiles, *self.params = unpacked(self.packed_once, all_steps)
        self.every = torch.arange(len(all_steps[0]), device=device)
        self.drawn = torch.empty(2, len(all_steps[0]), dtype=torch.int32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.was_run = False

    def context(self, cache: KVCache, kernel: GatherKernel, table: Tensor, max_len: int) -> DeviceAttention:
        """Return the attention of the steps: over slots int32 [R, C], of which no row sees more than max_len."""
        seen = SlotTable(table, self.rows, self.lens, self.tiles, self.in_tiles, max_len)
        return DeviceAttention(cache, kernel, seen, self.slots)

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
            self.graph = self._captured(context)
        if self.graph is None:
            self._compute(context)
            self.was_run = True
        else:
            self.graph.replay()

    def _captured(self, context: DeviceAttention) -> torch.cuda.CUDAGraph:
        """Return the step as a graph. Raises RuntimeError, with the setting that does without, if that cannot be."""
        graph = torch.cuda.CUDAGraph()
        try:
            # If the capture cannot be ended, torch would go on with its stream, for which no tensor waits. Other
            # threads, such as NCCL's, may ask for events meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"),
            ):
                self._compute(context)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            message = "cannot capture a decoding step in a CUDA graph; engine.num_scheduler_steps = 1 does without"
            raise RuntimeError(f"{message} ({first_line(error)})") from error
        return graph

    def _compute(self, context: DeviceAttention) -> None:
        logits = self.forward(self.ids, self.positions, context, self.every, num_positions=context.table.max_len)
        self.drawn.copy_(draw(logits, self.numbers, self.kinds, self.params))
        self.ids.copy_(self.drawn[0])


def packed_rows(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return uint8 [n, bytes]: several arrays per row, one after the other."""
    packed = np.zeros((len(rows), packed_size(rows[0])), np.uint8)
    for target, arrays in zip(packed, rows, strict=True):
        pack_into(target, arrays)
    return packed

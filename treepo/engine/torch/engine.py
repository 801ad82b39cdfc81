"""TorchEngine: continuous batching over the model that is being trained.

A step gives waiting requests rows, and runs one forward over the prefix tokens that nobody has computed yet and over
the last token of every running request; each request then draws its next token.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from treepo.engine.base import EngineCounters, SampleRequest, SampleResult
from treepo.engine.sampling import BatchSamplingParams, sample_tokens, uniforms
from treepo.engine.torch.attention import GatherKernel, Kernel, SlotAttention
from treepo.engine.torch.batch import Batch, Layout, Pending, Rows
from treepo.engine.torch.cpu import CpuKernel, load_kernel
from treepo.engine.torch.kv_cache import BLOCK, Blocks, KVCache, affordable_tokens
from treepo.engine.torch.prefix_cache import PrefixCache, Run
from treepo.model.compatibility import has_length_dependent_rope
from treepo.model.forward import AutocastForward, Forward, FusedForward, PlainForward, TorchOperations, supports_fused


class TorchEngine:
    """Serves a model whose attention is `treepo.model.attention.attend`.

    max_num_seqs: requests decoded at a time. max_num_batched_tokens: most prefix tokens of one forward, though at least one
    prefix. max_cache_tokens: most tokens whose keys and values are kept; what nobody uses is forgotten first, then requests
    wait or are computed again later, with the same result. Half of the free memory if not given. autocast: type of the
    matrix products, as the trainer has it; that of the weights if not given.
    """

    def __init__(
        self,
        model: nn.Module,
        eos_ids: Sequence[int],
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        max_cache_tokens: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.eos_ids = np.array(eos_ids, np.int64)
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.kv_cache_tokens = affordable_tokens(model) if max_cache_tokens is None else max_cache_tokens
        self.waiting: deque[Pending] = deque()
        self.rows = Rows(max_num_seqs)
        self.blocks = Blocks(self.kv_cache_tokens // BLOCK)
        self.prefixes = PrefixCache(self.blocks)
        self.kernel = make_kernel(self._device())
        kept_in = torch.float32 if isinstance(self.kernel, CpuKernel) else None
        self.pool = KVCache(self.blocks.max_blocks, kept_in)
        self.forward = make_forward(model, self.kernel, autocast)
        self.num_steps = self.num_prefilled = self.num_decoded = self.num_cached = 0

    @property
    def num_free_slots(self) -> int:
        """See Engine."""
        return self.max_num_seqs - self.rows.num_running - len(self.waiting)

    @property
    def counters(self) -> EngineCounters:
        """See Engine."""
        num_slots = self.num_steps * self.max_num_seqs
        return EngineCounters(self.num_steps, num_slots, self.num_decoded, self.num_prefilled, self.num_cached)

    @property
    def peak_tokens(self) -> int:
        """Slots, also those of a block that are not taken yet; see Engine."""
        return self.blocks.peak * BLOCK

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, prefix and response, that fit into max_cache_tokens."""
        return (self.blocks.max_blocks - 1) * BLOCK

    def submit(self, request: SampleRequest) -> None:
        """Queue one request; see Engine. Raises ValueError if it can never fit."""
        assert len(request.prefix_ids) > 0 and request.max_new_tokens > 0
        length = len(request.prefix_ids) + request.max_new_tokens
        if length > self.max_model_len:
            raise ValueError(f"max_cache_tokens must hold a sequence of {length} tokens, got {self.kv_cache_tokens}")
        self.waiting.append(Pending(request, np.zeros(0, np.int32), np.zeros(0, np.float32)))

    @torch.no_grad()
    def step(self) -> list[SampleResult]:
        """Decode one token for every running request; see Engine."""
        self.num_steps += 1
        self._make_room()
        batch = Batch(self.rows)
        running = self.rows.running()
        self._admit(batch)
        if self.rows.num_running == 0:
            return []
        batch.add_running(running)
        self.pool.reserve(self.blocks.num_made)
        layout = batch.laid_out()
        return self._collect(layout.drawing, *self._draw(layout))

    def sleep(self) -> None:
        """Forget everything and let go of the memory it was in; see Engine."""
        self._forget()
        self.pool.clear()

    def update_weights(self, model: nn.Module) -> None:
        """The engine samples from the model it was given; see Engine. What is known is forgotten."""
        assert model is self.model, "the embedded engine samples from the model it was made with"
        self._forget()
        self.blocks.peak = 0

    def abort_group(self, group: int) -> None:
        """See Engine."""
        self.waiting = deque(pending for pending in self.waiting if pending.request.group != group)
        for row in self.rows.running().tolist():
            if self.rows.groups[row] == group:
                self._leave(row)
        self.prefixes.drop(group)

    def _forget(self) -> None:
        assert not self.waiting and self.rows.num_running == 0, "weights change only between requests"
        for group in list(self.prefixes.groups):
            self.prefixes.drop(group)

    def _make_room(self) -> None:
        """Give each running row whose next token begins a block a new one; the youngest rows wait if there is none."""
        rows, blocks = self.rows, self.blocks
        while True:
            in_need = rows.in_need(rows.running())
            if blocks.num_left >= len(in_need) or self.prefixes.evict(len(in_need)):
                break
            youngest = int(max(rows.running(), key=lambda row: rows.entered[row]))
            self.waiting.appendleft(self._leave(youngest))
        for row in in_need.tolist():
            block = blocks.take()
            blocks.filled[block] = BLOCK
            rows.continue_in(row, block * BLOCK)

    def _admit(self, batch: Batch) -> None:
        """Give rows to waiting requests, in their order, while there are rows, blocks and prefill tokens left."""
        budget = self.max_num_batched_tokens
        while self.waiting and self.rows.free:
            pending = self.waiting[0]
            ids = pending.ids
            run, num_known = self.prefixes.match(pending.request.group, ids)
            missing = len(ids) - num_known
            if missing - 1 > budget < self.max_num_batched_tokens:
                return
            if not self._find_blocks(run, missing):
                if self.rows.num_running > 0:
                    return
                # Parts of blocks that others left unused are all that is missing: compute this one afresh.
                self.prefixes.evict(self.blocks.max_blocks)
                continue
            self.waiting.popleft()
            self._enter(pending, ids, run, num_known, batch)
            num_computed = max(missing - 1, 0)
            budget -= num_computed
            self.num_prefilled += num_computed
            self.num_cached += len(ids) - 1 - num_computed

    def _find_blocks(self, run: Run, missing: int) -> bool:
        """Whether there are, or can be made, blocks for so many tokens behind a run and for one more."""
        after = int(run.slots[-1]) if len(run.slots) else -1
        needed = self.blocks.num_needed(after, missing + 1)
        if self.blocks.num_left >= needed:
            return True
        self.prefixes.use(run, 1)
        found = self.prefixes.evict(needed)
        self.prefixes.use(run, -1)
        return found

    def _enter(self, pending: Pending, ids: np.ndarray, run: Run, num_known: int, batch: Batch) -> None:
        """Give a request a row and its missing prefix tokens slots, and ask for what is to be computed."""
        self.prefixes.use(run, 1)
        if num_known < len(ids):
            slots = self.blocks.append(int(run.slots[-1]) if len(run.slots) else -1, len(ids) - num_known)
            run = self.prefixes.attach(run, ids[num_known:], slots)
            run.num_users = 1
        slots = self.prefixes.slots_of(run)
        row = self.rows.enter(pending, run, slots)
        last = int(slots[-1])
        if self.blocks.room_behind(last):
            self.blocks.hold(np.array([last // BLOCK]))
            self.blocks.filled[last // BLOCK] = BLOCK
            self.rows.continue_in(row, last + 1)
        batch.add_admitted(row, num_known, run)

    def _draw(self, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
        """Run the forward; the next token of each drawing row and its log-probability."""
        device, rows, drawing = self._device(), self.rows, layout.drawing
        attention = SlotAttention(self.pool, self.kernel, layout.table, layout.new, layout.new_slots)
        inputs = layout.ids, layout.positions, layout.logits_at
        ids, positions, logits_at = (torch.from_numpy(x).to(device) for x in inputs)
        logits = self.forward(ids, positions, attention, logits_at)
        numbers = uniforms(rows.seeds[drawing], rows.num_known[drawing])
        params = BatchSamplingParams(
            rows.temperatures[drawing], rows.top_k[drawing], rows.top_p[drawing], rows.min_p[drawing]
        )
        self.num_decoded += len(drawing)
        return sample_tokens(logits, layout.draws_from, params, numbers)

    def _collect(self, drawing: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> list[SampleResult]:
        """Append a token to each row and hand out the segments that are complete."""
        if not np.isfinite(logprobs).all():
            raise FloatingPointError("the model's logits are not finite")
        rows = self.rows
        at = drawing, rows.num_known[drawing]
        rows.ids[at], rows.logprobs[at] = tokens, logprobs
        rows.num_known[drawing] += 1
        ended = np.isin(tokens, self.eos_ids)
        done = ended | (rows.num_known[drawing] == rows.ends[drawing])
        results = []
        for row, has_ended in zip(drawing[done].tolist(), ended[done].tolist(), strict=True):
            decoded = self._leave(row)
            results.append(SampleResult(decoded.request.request_id, decoded.token_ids, decoded.logprobs, has_ended))
        return results

    def _leave(self, row: int) -> Pending:
        """Take a row back; what it computed stays known until it is forgotten."""
        rows, run = self.rows, self.rows.runs[row]
        assert run is not None
        computed = slice(int(rows.prefix_lens[row]), int(rows.num_known[row]) - 1)
        self.prefixes.insert(run, rows.ids[row, computed].copy(), rows.slots[row, computed].copy())
        rows.release(row, self.blocks)
        self.prefixes.use(run, -1)
        return rows.leave(row)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def make_kernel(device: torch.device) -> Kernel:
    """The fastest attention there is on a device: compiled C, Triton, or torch where neither can be had."""
    if device.type == "cpu":
        library = load_kernel()
        return CpuKernel(library) if library else GatherKernel()
    try:
        from treepo.engine.torch.triton import TritonKernel  # noqa: PLC0415 - Triton is there on GPUs only
    except ImportError:
        return GatherKernel()
    return TritonKernel()


def make_forward(model: nn.Module, kernel: Kernel, autocast: torch.dtype | None = None) -> Forward:
    """The leanest forward there is for a model, over its own weights: what is trained is what runs."""
    config: Any = model.config
    if not supports_fused(model) or has_length_dependent_rope(config):
        forward: Forward = PlainForward(model)
    elif isinstance(kernel, CpuKernel) and autocast is None and next(model.parameters()).dtype == torch.float32:
        forward = FusedForward(model, kernel)
    else:
        forward = FusedForward(model, TorchOperations())
    return forward if autocast is None else AutocastForward(forward, autocast)

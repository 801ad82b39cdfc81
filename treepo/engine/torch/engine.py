"""TorchEngine: continuous batching over the model that is being trained.

A step admits waiting requests, and runs one forward over the prefix tokens that are not cached and over the last token
of every running request; each request then samples its next token.
"""

import logging
from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from treepo.engine.base import EngineCounters, SampleRequest, SampleResult
from treepo.engine.sampling import sample_tokens, uniforms
from treepo.engine.torch.backends import make_forward, make_kernel, make_loop
from treepo.engine.torch.batch import BatchBuilder, RunningBatch, Sequence
from treepo.engine.torch.cpu import CpuKernel
from treepo.engine.torch.kv_cache import BLOCK, BlockManager, KVCache, affordable_tokens
from treepo.engine.torch.lookahead import look_ahead
from treepo.engine.torch.prefix_cache import PrefixCache, RadixNode
from treepo.engine.transfer import send
from treepo.errors import SettingError
from treepo.model.linear_maps import product_dtype
from treepo.utils.foreign_errors import first_line, is_out_of_memory

logger = logging.getLogger(__name__)

REMEDIES = "shorten responses (tree.depth, tree.segment_len) or prompts (data.max_prompt_len), or set train.autocast"


class TorchEngine:
    """Serves a model whose attention is `treepo.model.attention.attend`.

    max_num_seqs: requests decoded at a time. max_num_batched_tokens: most prefix tokens of one forward, though at least
    one prefix. max_cache_tokens: most tokens whose keys and values are kept; what no request uses is evicted first,
    then the youngest requests wait and are computed again, with the same result. Half of the free memory if not given.
    autocast: type of the trainer's matrix products, that of the weights if not given; see `product_dtype`. Where
    memory runs out, all requests wait, go on with half as many at a time and a cache of half the size, and get the same
    tokens. num_scheduler_steps: on GPUs, most tokens that each request decodes before the host looks which have ended;
    those that end early decode tokens that are dropped.
    """

    reads_model = True
    is_shared = False

    def __init__(
        self,
        model: nn.Module,
        eos_ids: Iterable[int],
        max_num_seqs: int = 256,
        *,
        max_num_batched_tokens: int = 8192,
        max_cache_tokens: int | None = None,
        autocast: torch.dtype | None = None,
        num_scheduler_steps: int = 16,
    ) -> None:
        self.model = model
        self.eos_ids = np.array(list(eos_ids), np.int64)
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.kernel = make_kernel(self._device())
        self.forward = make_forward(model, self.kernel, autocast)
        self.loop = make_loop(self.forward, self.kernel, self._device())
        self.num_scheduler_steps = num_scheduler_steps
        self.cache_dtype = torch.float32 if isinstance(self.kernel, CpuKernel) else product_dtype(model, autocast)
        if max_cache_tokens is None:
            max_cache_tokens = affordable_tokens(model, self.cache_dtype, self.forward.num_copied_bytes)
        self.max_cache_tokens = max_cache_tokens
        self.waiting: deque[Sequence] = deque()
        self._begin(self.max_cache_tokens // BLOCK)
        self.counters = EngineCounters()
        self.num_updates = 0

    def _begin(self, max_blocks: int) -> None:
        """Begin with an empty cache and no running requests."""
        self.rows = RunningBatch(self.max_num_seqs)
        self.blocks = BlockManager(max_blocks)
        self.prefix_cache = PrefixCache(self.blocks)
        self.kv_cache = KVCache(max_blocks, self.cache_dtype)

    @property
    def kv_cache_tokens(self) -> int:
        return self.blocks.max_blocks * BLOCK

    @property
    def num_free_slots(self) -> int:
        return self.max_num_seqs - self.rows.num_running - len(self.waiting)

    @property
    def peak_tokens(self) -> int:
        """Slots of the blocks that were used at a time, also those that no token has taken."""
        return self.blocks.peak_used * BLOCK

    @property
    def cache_bytes(self) -> int:
        return self.kv_cache.num_bytes

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, prefix and response, that fit into the cache."""
        return (self.max_cache_tokens // BLOCK - 1) * BLOCK

    def submit(self, request: SampleRequest) -> None:
        assert len(request.prefix_ids) > 0 and request.max_new_tokens > 0
        length = len(request.prefix_ids) + request.max_new_tokens
        if length > self.max_model_len:
            message = f"must hold a sequence of {length} tokens"
            raise SettingError("engine.max_cache_tokens", message, self.max_cache_tokens)
        # It may be larger than all that there were when memory ran out.
        self.blocks.max_blocks = self.kv_cache.max_blocks = max(self.blocks.max_blocks, blocks_for(length))
        self.waiting.append(Sequence(request, np.zeros(0, np.int32), np.zeros(0, np.float32)))

    def step(self) -> list[SampleResult]:
        """Decode a token for every running request, or several where the host need not look. Raises MemoryError, with
        the settings to change, if memory runs out with a single one."""
        try:
            return self._step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        # Not while the error is handled: it keeps the tensors of the failed forward alive.
        self._shrink(reason)
        return []

    @torch.no_grad()
    def _step(self) -> list[SampleResult]:
        if (results := self._decode_ahead()) is not None:
            return results
        self.counters = self.counters.plus(num_steps=1, num_slots=self.max_num_seqs)
        self._allocate_or_preempt()
        builder = BatchBuilder(self.rows)
        running = self.rows.running()
        self._admit(builder)
        if self.rows.num_running == 0:
            return []
        builder.add_running(running)
        self.kv_cache.reserve(self.blocks.num_created)
        sampling = np.array(builder.sampling_rows, np.int64)
        return self._collect(sampling, *self._sample(builder, sampling))

    def sleep(self) -> None:
        """Forget all prefixes and free the memory of the cache and of copied weights."""
        self._forget_prefixes()
        self.kv_cache.clear()
        self._release()
        # The trainer's tensors have other sizes than the cache's: pieces of its memory would not fit together.
        torch.cuda.empty_cache()

    def update_weights(self, model: nn.Module) -> None:
        """Forget all prefixes; the weights are those of the engine's own model."""
        assert model is self.model, "the embedded engine samples from the model it was made with"
        self.num_updates += 1
        self._forget_prefixes()
        self._release()
        self.blocks.peak_used = 0

    def join_update(self, model: nn.Module) -> None:
        """Do nothing: the weights are there, in every process."""

    def abort_group(self, group: int) -> None:
        self.waiting = deque(sequence for sequence in self.waiting if sequence.request.group != group)
        for row in self.rows.running().tolist():
            if self.rows.groups[row] == group:
                self._remove(row)
        self.prefix_cache.remove_group(group)

    def close(self) -> None:
        self.waiting.clear()
        for row in self.rows.running().tolist():
            self._remove(row)
        self.prefix_cache.clear()
        self.kv_cache.clear()
        self._release()

    def _release(self) -> None:
        """Free copied weights, and the steps that were captured with them."""
        self.forward.release()
        if self.loop is not None:
            self.loop.release()

    def _forget_prefixes(self) -> None:
        assert not self.waiting and self.rows.num_running == 0, "weights change only between requests"
        self.prefix_cache.clear()

    def _shrink(self, reason: str) -> None:
        """Let all requests wait, and halve how many run at a time, the prefix tokens of a forward, and the cache."""
        running = [self.rows.remove(row) for row in self.rows.running().tolist()]
        names = {sequence.request.request_id for sequence in running}
        # Of one that was about to run when memory ran out it is not known how far it came.
        waiting = [sequence for sequence in self.waiting if sequence.request.request_id not in names]
        self.waiting = deque([*running, *waiting])
        lengths = [len(s.request.prefix_ids) + s.request.max_new_tokens for s in self.waiting]
        fewest, max_blocks = blocks_for(max(lengths)), self.kv_cache.num_blocks or self.blocks.max_blocks
        is_smallest = len(running) <= 1 and max_blocks <= fewest
        if is_smallest:
            self.waiting.clear()
        self.max_num_seqs = max(len(running) // 2, 1)
        self.max_num_batched_tokens = max(self.max_num_batched_tokens // 2, 1)
        peak_used = self.blocks.peak_used
        if self.loop is not None:
            self.loop.release()
        self._begin(max(max_blocks // 2, fewest))
        self.blocks.peak_used = peak_used
        torch.cuda.empty_cache()
        if is_smallest:
            raise MemoryError(
                f"engine.max_num_seqs: out of memory with a single sequence that is decoded; {REMEDIES} ({reason})"
            )
        logger.warning(
            "out of memory while decoding: from now on engine.max_num_seqs is %d, engine.max_cache_tokens %d",
            self.max_num_seqs,
            self.kv_cache_tokens,
        )

    def _allocate_or_preempt(self) -> None:
        """Give each running row whose next token begins a block a new one; preempt the youngest rows if need be."""
        rows, blocks = self.rows, self.blocks
        while True:
            in_need = rows.needs_block(rows.running())
            if blocks.num_free >= len(in_need) or self.prefix_cache.evict(len(in_need)):
                break
            youngest = int(max(rows.running(), key=lambda row: rows.entered[row]))
            self.waiting.appendleft(self._remove(youngest))
        for row in in_need.tolist():
            # All of it belongs to the row.
            rows.append_slot(row, blocks.allocate(is_full=True) * BLOCK)

    def _admit(self, builder: BatchBuilder) -> None:
        """Give rows to waiting requests, in their order, while rows, blocks and prefill tokens are left."""
        budget = self.max_num_batched_tokens
        while self.waiting and self.rows.free_rows:
            sequence = self.waiting[0]
            ids = sequence.ids
            node, num_cached = self.prefix_cache.match(ids)
            num_missing = len(ids) - num_cached
            if num_missing - 1 > budget < self.max_num_batched_tokens:
                return
            if not self._find_blocks(node, num_missing):
                if self.rows.num_running > 0:
                    return
                # Only parts of blocks that others left unused are missing: compute this one afresh.
                self.prefix_cache.evict(self.blocks.max_blocks)
                continue
            self._enter(sequence, ids, node, num_cached, builder)
            # Not before: it would be lost if memory ran out meanwhile.
            self.waiting.popleft()
            num_computed = max(num_missing - 1, 0)
            budget -= num_computed
            num_found = len(ids) - 1 - num_computed
            self.counters = self.counters.plus(num_prefilled=num_computed, num_cached=num_found)

    def _find_blocks(self, node: RadixNode, num_missing: int) -> bool:
        """Return whether there are, or can be made, blocks for so many tokens below a node and for one more."""
        needed = self.blocks.num_needed(node.last_slot, num_missing + 1)
        if self.blocks.num_free >= needed:
            return True
        self.prefix_cache.acquire(node)
        found = self.prefix_cache.evict(needed)
        self.prefix_cache.release(node)
        return found

    def _enter(
        self, sequence: Sequence, ids: np.ndarray, node: RadixNode, num_cached: int, builder: BatchBuilder
    ) -> None:
        """Give a sequence a row, its missing prefix tokens slots, and the builder what is to be computed."""
        self.prefix_cache.acquire(node)
        if num_cached < len(ids):
            slots = self.blocks.append_slots(node.last_slot, len(ids) - num_cached)
            node = self.prefix_cache.add_child(node, ids[num_cached:], slots)
            node.ref_count = 1
        self.prefix_cache.join(node, sequence.request.group)
        slots = self.prefix_cache.slots_of(node)
        row = self.rows.add(sequence, node, slots)
        if self.blocks.num_open(node.last_slot):
            # The rest of the prefix's last block is this row's; others that continue the prefix begin a new block.
            block = node.last_slot // BLOCK
            self.blocks.incref(np.array([block]))
            self.blocks.num_filled[block] = BLOCK
            self.rows.append_slot(row, node.last_slot + 1)
        builder.add_admitted(row, num_cached, node)

    def _decode_ahead(self) -> list[SampleResult] | None:
        """Decode several tokens for every running row without the host; None where it has to do something in between:
        admit requests, find blocks, or count tokens for a repetition penalty."""
        rows, running = self.rows, self.rows.running()
        if self.loop is None or not len(running) or (self.waiting and rows.free_rows):
            return None
        num_steps = min(self.num_scheduler_steps, int((rows.ends[running] - rows.num_known[running]).max()))
        if num_steps < 2 or rows.params.of_rows(running).penalizes:
            return None
        while (ahead := look_ahead(rows, self.blocks, self.prefix_cache.evict, num_steps)) is None:
            # Fewer tokens need fewer blocks.
            num_steps //= 2
            if num_steps < 2:
                return None
        self.kv_cache.reserve(self.blocks.num_created)
        drawn = self.loop.run(ahead.inputs(rows), self.kv_cache)
        num_known = rows.num_known[running].sum()
        done, ended = ahead.accept(rows, self.blocks, *drawn, self.eos_ids)
        num_decoded = int(rows.num_known[running].sum() - num_known)
        num_slots = num_steps * self.max_num_seqs
        self.counters = self.counters.plus(num_steps=num_steps, num_slots=num_slots, num_decoded=num_decoded)
        return self._finish(running[done], ended[done])

    def _sample(self, builder: BatchBuilder, sampling: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the forward; return the next token of each sampling row and its log-probability."""
        device, rows = self._device(), self.rows
        *inputs, attention = builder.build(self.kv_cache, self.kernel)
        ids, positions, logits_at = send([*inputs, np.array(builder.logits_at)], device)
        logits = self.forward(ids, positions, attention, logits_at, num_positions=int(attention.table.lens.max()))
        numbers = uniforms(rows.seeds[sampling], rows.num_known[sampling])
        self.counters = self.counters.plus(num_decoded=len(sampling))
        logits_rows, params = np.array(builder.logits_rows), rows.params.of_rows(sampling)
        return sample_tokens(logits, logits_rows, params, numbers, known_ids=lambda i: rows.known_ids(sampling[i]))

    def _collect(self, sampling: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> list[SampleResult]:
        """Append a token to each row and return the segments that are complete."""
        rows = self.rows
        rows.append_tokens(sampling, tokens, logprobs)
        ended = np.isin(tokens, self.eos_ids)
        done = ended | (rows.num_known[sampling] == rows.ends[sampling])
        return self._finish(sampling[done], ended[done])

    def _finish(self, rows: np.ndarray, ended: np.ndarray) -> list[SampleResult]:
        """Take back rows whose segments are complete; ended: which of them by an end-of-sequence token."""
        results = []
        for row, has_ended in zip(rows.tolist(), ended.tolist(), strict=True):
            decoded = self._remove(row)
            results.append(SampleResult(decoded.request.request_id, decoded.token_ids, decoded.logprobs, has_ended))
        return results

    def _remove(self, row: int) -> Sequence:
        """Take a row back; what it computed stays in the prefix cache."""
        rows, node = self.rows, self.rows.nodes[row]
        assert node is not None
        computed = slice(int(rows.prefix_lens[row]), int(rows.num_known[row]) - 1)
        ids, slots = rows.ids[row, computed].copy(), rows.slots[row, computed].copy()
        self.prefix_cache.insert(node, ids, slots, int(rows.groups[row]))
        rows.free_blocks(row, self.blocks)
        self.prefix_cache.release(node)
        return rows.remove(row)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def blocks_for(num_tokens: int) -> int:
    """How many blocks a cache must have for a sequence of so many tokens."""
    return -(-num_tokens // BLOCK) + 1

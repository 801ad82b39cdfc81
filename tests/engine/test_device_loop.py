"""Several tokens without the host: the same tokens, from the same blocks, as one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engine.engines import request
from tests.models import make_tiny_model
from treepo.engine.base import SampleRequest, SampleResult, SamplingParams
from treepo.engine.torch import engine as engine_module
from treepo.engine.torch import query_tiles
from treepo.engine.torch.attention import BlockTable, GatherKernel, SlotTable
from treepo.engine.torch.device_loop import DeviceLoop
from treepo.engine.torch.device_table import DeviceTable
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.lookahead import padded_size
from treepo.model.forward import FusedForward


class OneByOne(GatherKernel):
    """Gathers for one query at a time: how others are padded changes no bit. Looks whether queries that read slots
    together have these slots in common."""

    num_tiles = 0

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, table: BlockTable, scale: float, window: int | None
    ) -> Tensor:
        arrays = table.slots, table.rows, table.lens, *query_tiles.query_tiles(table.slots, table.rows, table.lens)
        seen = SlotTable(*(torch.from_numpy(array) for array in arrays), max_len=0)
        return self.attend_at(query, keys, values, seen, scale, window)

    def attend_at(
        self, query: Tensor, keys: Tensor, values: Tensor, table: SlotTable, scale: float, window: int | None
    ) -> Tensor:
        for first, count, row, num_slots in table.tiles.tolist():
            self.num_tiles += count > 0
            for i in range(first, first + count):
                seen = min(num_slots, int(table.lens[i]))
                assert torch.equal(table.slots[table.rows[i], :seen], table.slots[row, :seen])
        outputs = []
        for i in range(len(query)):
            rows, lens = table.rows[i : i + 1], table.lens[i : i + 1]
            one = replace(table, rows=rows, lens=lens, max_len=int(lens))
            outputs.append(super().attend_at(query[i : i + 1], keys, values, one, scale, window))
        return torch.cat(outputs)


def requests(sampling: SamplingParams) -> list[SampleRequest]:
    """Trees in the making, of segments of unequal lengths."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 16, size=n) for n in (4, 11, 11, 30)]
    plain = [request(prompts[i % 4], 1 + 2 * i, seed=i, name=i) for i in range(12)]
    return [replace(one, sampling=sampling, group=one.request_id % 4) for one in plain]


def results_of(engine: TorchEngine, wanted: list[SampleRequest]) -> list[SampleResult]:
    for one in wanted:
        engine.submit(one)
    found: list[SampleResult] = []
    while len(found) < len(wanted):
        found += engine.step()
    return sorted(found, key=lambda result: result.request_id)


@pytest.mark.parametrize(
    ("kind", "num_scheduler_steps", "max_num_seqs", "max_cache_tokens", "sampling"),
    [
        ("qwen2", 2, 14, 4000, SamplingParams()),
        ("mistral", 8, 5, 4000, SamplingParams(temperature=0.7, top_k=6, top_p=0.9)),
        ("qwen3", 16, 14, 240, SamplingParams(temperature=0.0)),
        ("qwen2", 16, 14, 4000, SamplingParams(repetition_penalty=1.3)),
    ],
)
def test_the_same_tokens_and_log_probabilities_bit_for_bit(
    kind: str,
    num_scheduler_steps: int,
    max_num_seqs: int,
    max_cache_tokens: int,
    sampling: SamplingParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that end early, or by EOS in between; requests that wait, too few blocks, windows, every way to sample.
    Nothing stays allocated. A second round finds the prefixes that the first one left. Tiles are used as if they cost
    nothing."""
    for name, value in (("GRAIN", 1), ("MERGE_COST", 0), ("MIN_GAIN", 1)):
        monkeypatch.setattr(query_tiles, name, value)
    monkeypatch.setattr(engine_module, "make_kernel", lambda device: OneByOne())
    model, wanted = make_tiny_model(kind), requests(sampling)
    found, num_loops = [], []
    for is_ahead in (False, True):
        engine = TorchEngine(
            model, [5], max_num_seqs, max_cache_tokens=max_cache_tokens, num_scheduler_steps=num_scheduler_steps
        )
        if is_ahead:
            assert isinstance(engine.forward, FusedForward)
            engine.loop = DeviceLoop(engine.forward, engine.kernel, torch.device("cpu"))
            run = engine.loop.run
            monkeypatch.setattr(engine.loop, "run", lambda *args, run=run: num_loops.append(1) or run(*args))
        found.append(results_of(engine, wanted) + results_of(engine, wanted[3:]))
        assert isinstance(engine.kernel, OneByOne) and engine.kernel.num_tiles > 50
        assert engine.counters.num_decoded >= sum(len(one.token_ids) for one in found[-1])
        for group in range(4):
            engine.abort_group(group)
        assert engine.blocks.num_used == 0
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours.token_ids, theirs.token_ids) and ours.ended == theirs.ended
        assert np.array_equal(ours.logprobs, theirs.logprobs)
    assert any(one.ended for one in found[0])
    assert bool(num_loops) == (sampling.repetition_penalty == 1)


def test_fewer_tokens_are_decoded_ahead_where_blocks_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the blocks of all of `num_scheduler_steps` were not there, the host looked after every single token. Here
    the sequences fill the cache, so that one block is missing for all 35 tokens ahead."""
    monkeypatch.setattr(engine_module, "make_kernel", lambda device: OneByOne())
    engine = TorchEngine(make_tiny_model(), [], 4, max_cache_tokens=4 * 40, num_scheduler_steps=64)
    assert isinstance(engine.forward, FusedForward)
    loop = engine.loop = DeviceLoop(engine.forward, engine.kernel, torch.device("cpu"))
    run, steps = loop.run, []
    monkeypatch.setattr(loop, "run", lambda inputs, *rest: steps.append(len(inputs.each_step)) or run(inputs, *rest))
    results_of(engine, [request([3 + i, 4, 5, 6], 36, seed=i, name=i) for i in range(4)])
    assert steps[0] == 17 and sum(steps) > 24


def test_captured_steps_are_dropped_where_weights_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sharded model's weights are gathered anew for every rollout and evaluation, into other memory: graphs that were
    captured before read what lay there since."""
    kernel = OneByOne()
    monkeypatch.setattr(kernel, "send_table", DeviceTable().update)
    monkeypatch.setattr(engine_module, "make_kernel", lambda device: kernel)
    model, wanted = make_tiny_model(), [request([3, 4, 5], 8, seed=0)]
    engine = TorchEngine(model, [], 4, max_cache_tokens=400, num_scheduler_steps=4)
    assert isinstance(engine.forward, FusedForward)
    loop = engine.loop = DeviceLoop(engine.forward, engine.kernel, torch.device("cpu"))
    steps = []
    for is_moved in (False, False, True):
        if is_moved:
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()
        results_of(engine, wanted)
        steps.append(list(loop.steps.values()))
    assert len(steps[0]) == 1
    assert steps[0][0] is steps[1][0] and steps[1][0] is not steps[2][0]


def test_a_step_that_cannot_be_captured_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch goes on with the stream of a capture that cannot be ended; the engine does not."""
    kernel, streams = OneByOne(), []
    kernel.is_capturable = True
    monkeypatch.setattr(engine_module, "make_kernel", lambda device: kernel)

    @contextmanager
    def stream(_: object) -> Iterator[None]:
        streams.append("the engine's")
        try:
            yield
        finally:
            streams.append("the engine's")

    @contextmanager
    def graph(*_: object, **options: object) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        streams.append("the capture's")
        yield
        raise RuntimeError("operation failed due to a previous error during capture")

    fakes = {"CUDAGraph": object, "graph_pool_handle": object, "current_stream": object, "stream": stream}
    for name, fake in (fakes | {"graph": graph}).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    engine = TorchEngine(make_tiny_model(), [], 4, max_cache_tokens=400, num_scheduler_steps=4)
    assert isinstance(engine.forward, FusedForward)
    engine.loop = DeviceLoop(engine.forward, engine.kernel, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="engine.num_scheduler_steps = 1 does without .*previous error"):
        results_of(engine, [request([3, 4, 5], 8, seed=0)])
    assert streams == ["the engine's", "the capture's", "the engine's"]
    assert all(step.graph is None for step in engine.loop.steps.values())


def test_logits_that_are_not_finite_are_an_error_where_a_row_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the end of a row is dropped, whatever it is."""
    monkeypatch.setattr(engine_module, "make_kernel", lambda device: OneByOne())
    engine = TorchEngine(make_tiny_model(), [], 4, max_cache_tokens=2000, num_scheduler_steps=8)
    assert isinstance(engine.forward, FusedForward)
    loop = engine.loop = DeviceLoop(engine.forward, engine.kernel, torch.device("cpu"))
    run, broken_at = loop.run, 3

    def broken(*args):
        tokens, logprobs = run(*args)
        logprobs = logprobs.copy()
        logprobs[broken_at:] = np.nan
        return tokens, logprobs

    monkeypatch.setattr(loop, "run", broken)
    ids = np.array([3, 4], np.int32)
    [short] = results_of(engine, [SampleRequest(0, ids, 4, 0)])
    assert len(short.token_ids) == 4
    with pytest.raises(FloatingPointError, match="not finite"):
        results_of(engine, [SampleRequest(1, ids, 5, 0)])


def test_few_sizes_have_little_padding() -> None:
    """Each size is captured in a graph of its own."""
    sizes = [padded_size(n) for n in range(1, 1025)]
    assert all(size % 8 == 0 and n <= size <= max(16, 1.5 * n) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 13

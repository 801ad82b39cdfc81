"""What a step of the embedded engine on a GPU makes the host wait for and copy, counted without a GPU."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engine.engines import run_all, tokens_of
from tests.engine.pretend_device import DEVICE, DeviceTensor, PretendDevice, held
from tests.models import make_tiny_model
from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.torch import engine as engine_module
from treepo.engine.torch.attention import GatherKernel, SlotTable
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.transfer import send
from treepo.model.forward import TorchOperations

pytest.importorskip("triton", reason="no Triton here")
from treepo.engine.torch.triton import TritonKernel


class HeldKernel(TritonKernel):
    """The kernels for GPUs, run in torch: what is sent is their own. device: counts their launches."""

    is_capturable = False

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self.device = device

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        return self.launched(TorchOperations().add_norm(*held([x, added, weight]), eps, dtype))

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> None:
        self.launched(TorchOperations().rotate(*held([query, key, cos, sin])))

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.launched(TorchOperations().gate(*held([gate, up])))

    def launched(self, output: Any) -> Any:
        """Count a launch; what it computed lies on the device."""
        self.device.counts["launches"] += 1
        return None if output is None else DeviceTensor(output)

    def store_at(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        self.launched(GatherKernel().store_at(*(held(x) for x in (key, value, keys, values, slots))))

    def attend_at(
        self, query: Tensor, keys: Tensor, values: Tensor, table: SlotTable, scale: float, window: int | None
    ) -> Tensor:
        slots, rows, lens = (held(x) for x in (table.slots, table.rows, table.lens))
        # What the device holds is what the host wrote.
        assert self.device_table.host is not None
        for row, n in zip(rows.tolist(), lens.tolist(), strict=True):
            assert np.array_equal(slots[row, :n], self.device_table.host[row, :n])
        here = SlotTable(slots, rows, lens, held(table.tiles), held(table.in_tiles), int(lens.max()))
        return self.launched(GatherKernel().attend_at(held(query), held(keys), held(values), here, scale, window))


def requests(**sampling: Any) -> list[SampleRequest]:
    """Trees in the making: prompts that several share, of unequal lengths."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 16, size=n) for n in (4, 11, 11, 30)]
    params = SamplingParams(**sampling)
    return [SampleRequest(i, prompts[i % 4].astype(np.int32), 5 + i, i, params) for i in range(14)]


@pytest.mark.parametrize(
    ("kind", "autocast", "sampling"),
    [
        ("qwen2", None, {"top_k": 5, "top_p": 0.9, "temperature": 1.3}),
        ("qwen3", torch.bfloat16, {"temperature": 0.7}),
    ],
)
def test_a_step_waits_once_for_the_device(
    kind: str, autocast: torch.dtype | None, sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host waits for the sampled tokens alone. It waited for the largest position, twice for tokens, and for each
    of seven to nine copies, one of which was the whole block table. No weight is cast in a step. The tokens are those
    of the engine on the CPU."""
    expected = tokens_of(run_all(TorchEngine(make_tiny_model(kind), [], 6), requests(**sampling)))
    model = make_tiny_model(kind)
    with PretendDevice() as device:
        monkeypatch.setattr(engine_module, "make_kernel", lambda _: HeldKernel(device))
        device.move(model)
        engine = TorchEngine(model, [], 6, max_cache_tokens=200, autocast=autocast, num_scheduler_steps=1)
        for one in requests(**sampling):
            engine.submit(one)
        results, steps = [], []
        while len(results) < 14:
            before, num_waiting = device.counts.copy(), len(engine.waiting)
            results += engine.step()
            steps.append((num_waiting == len(engine.waiting), device.counts - before))
    if autocast is None:
        assert [r.token_ids.tolist() for r in sorted(results, key=lambda r: r.request_id)] == expected
    decoding = [counts for is_decoding, counts in steps if is_decoding]
    assert len(decoding) > 15
    assert all(counts["waits"] == counts["fetched"] == 1 for counts in decoding)
    assert (steps[0][1]["casts"] > 0) == (autocast is not None)
    # Tokens, their slots, changes of the block table, how to sample; which tokens are new where a forward is padded.
    assert all(counts["sent"] <= 5 and counts["casts"] == 0 for counts in decoding)
    # Nor does it wait where requests enter.
    assert max(counts["waits"] for _, counts in steps) == 1
    # Of a layer: norms, also of heads, seven products, rotation, storage, attention, gate; it was twice as many.
    # Sampling with top-k and top-p takes some forty here, one with CUDA.
    assert max(counts["launches"] for counts in decoding) <= 50 + 15 * model.config.num_hidden_layers


def test_between_looks_the_host_neither_waits_nor_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token of a segment had the host send four arrays, wait for what was sampled, and launch all operations one
    by one. Now it does so once for eight tokens; what is launched in between has no argument of the host's, so that a
    CUDA graph can repeat it. The tokens are those of the engine on the CPU."""
    wanted = [replace(one, max_new_tokens=25) for one in requests(temperature=0.7)]
    expected = tokens_of(run_all(TorchEngine(make_tiny_model("qwen3"), [], 14), wanted))
    model = make_tiny_model("qwen3")
    with PretendDevice() as device:
        monkeypatch.setattr(engine_module, "make_kernel", lambda _: HeldKernel(device))
        device.move(model)
        engine = TorchEngine(model, [], 14, max_cache_tokens=2000, num_scheduler_steps=8)
        for one in wanted:
            engine.submit(one)
        engine.step()
        results, before, num_steps = [], device.counts.copy(), engine.counters.num_steps
        while len(results) < 14:
            results += engine.step()
    counts, num_steps = device.counts - before, engine.counters.num_steps - num_steps
    assert [r.token_ids.tolist() for r in sorted(results, key=lambda r: r.request_id)] == expected
    assert num_steps == 24
    assert counts["waits"] == counts["fetched"] == counts["sent"] == num_steps / 8
    assert counts["casts"] == 0
    # Three beyond those that a graph holds, which are 15 of each layer, and those of sampling.
    assert counts["launches"] <= num_steps * (25 + 15 * model.config.num_hidden_layers)


def test_arrays_of_any_type_and_size_are_sent_in_one_copy() -> None:
    """Empty ones, flags, and those whose bytes do not divide by 16."""
    arrays = [np.arange(3), np.zeros(0), np.array([True, False, True]), np.arange(6, dtype=np.int32).reshape(2, 3)]
    arrays += [np.zeros((0, 4), np.int32), np.linspace(0, 1, 7), np.arange(12, dtype=np.float32)[::2]]
    with PretendDevice() as device:
        sent = send(arrays, DEVICE)
    assert device.counts["sent"] == 1 and device.counts["waits"] == 0
    for tensor, array in zip(sent, arrays, strict=True):
        assert isinstance(tensor, DeviceTensor)
        assert np.array_equal(tensor.held.numpy(), array) and tensor.held.numpy().dtype == array.dtype

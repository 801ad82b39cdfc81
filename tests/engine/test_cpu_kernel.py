"""decode_attention.c against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from treepo.engine.torch.attention import BlockTable
from treepo.engine.torch.cpu import CpuKernel
from treepo.engine.torch.kv_cache import BLOCK, spans_of
from treepo.model.forward import TorchOperations
from treepo.model.kernels.compile import load_kernels

kernels = load_kernels("decode_attention.c")
pytestmark = pytest.mark.skipif(kernels is None, reason="no C compiler here")


def kernel() -> CpuKernel:
    assert kernels is not None
    return CpuKernel(kernels)


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_attention_equals_torch(data: st.DataObject) -> None:
    """Any heads, lengths, windows and spans, with slots that nobody stored (infinite) beside those that are seen."""
    groups, heads_per_group = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([1, 2, 3, 4, 7]))
    size = data.draw(st.sampled_from([8, 24, 32, 64, 80]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    num_rows, num_queries = int(rng.integers(1, 5)), int(rng.integers(1, 40))
    lens = rng.integers(1, 90, size=num_rows)
    window = data.draw(st.sampled_from([None, 1, 5, 40]))
    slots = _scattered(rng, lens)
    num_blocks = int(max(s.max() for s in slots)) // BLOCK + 1
    generator = torch.Generator().manual_seed(int(rng.integers(2**32)))
    key, value = (torch.randn(int(lens.sum()), groups, size, generator=generator) for _ in range(2))
    keys, values = torch.zeros(num_blocks, groups, size, BLOCK), torch.zeros(num_blocks, groups, BLOCK, size)
    keys += 1e30
    kernel().store(key, value, keys, values, np.concatenate(slots).astype(np.int32))

    spans = [spans_of(s) for s in slots]
    starts, counts = (np.zeros((num_rows, max(len(e[0]) for e in spans)), np.int32) for _ in range(2))
    for i, (first, number) in enumerate(spans):
        starts[i, : len(first)], counts[i, : len(first)] = first, number
    rows = rng.integers(num_rows, size=num_queries)
    seen = np.array([rng.integers(1, lens[r] + 1) for r in rows])
    query = torch.randn(num_queries, groups * heads_per_group, size, generator=generator)
    table = BlockTable(starts=starts, counts=counts, slots=np.zeros((1, 1), np.int32), rows=rows, lens=seen)
    output = kernel().attend(query, keys, values, table, 0.3, window)

    begins = np.concatenate([[0], np.cumsum(lens)])
    for i, (row, n) in enumerate(zip(rows, seen, strict=True)):
        part = slice(begins[row] + max(0, n - (window or n)), begins[row] + n)
        k, v = (x[part].transpose(0, 1).repeat_interleave(heads_per_group, 0) for x in (key, value))
        wanted = scaled_dot_product_attention(query[i, :, None], k, v, scale=0.3)[:, 0]
        torch.testing.assert_close(output[i], wanted, rtol=1e-5, atol=1e-5)


def test_bits_do_not_depend_on_where_the_slots_lie() -> None:
    """What other sequences leave of blocks decides in which lanes a sequence's keys lie: its attention has the same
    bits, in one piece, in many, and through a window."""
    rng = np.random.default_rng(0)
    key, value, query = torch.randn(85, 2, 16), torch.randn(85, 2, 16), torch.randn(30, 4, 16)
    layouts = [np.arange(85), *(_scattered(rng, np.array([85]))[0] for _ in range(10))]
    for window in (None, 11):
        outputs = []
        for slots in layouts:
            num_blocks = int(slots.max()) // BLOCK + 1
            keys, values = torch.zeros(num_blocks, 2, 16, BLOCK), torch.zeros(num_blocks, 2, BLOCK, 16)
            kernel().store(key, value, keys, values, slots.astype(np.int32))
            starts, counts = (x[None] for x in spans_of(slots))
            table = BlockTable(
                starts=starts, counts=counts, slots=slots[None], rows=np.zeros(30, int), lens=np.arange(56, 86)
            )
            outputs.append(kernel().attend(query, keys, values, table, 0.3, window))
        assert all(torch.equal(output, outputs[0]) for output in outputs)


def _scattered(rng: np.random.Generator, lens: np.ndarray) -> list[np.ndarray]:
    """Different slots for rows of these lengths, in stretches of any length anywhere in blocks."""
    free = [np.arange(b * BLOCK, (b + 1) * BLOCK) for b in rng.permutation(3 * int(lens.sum()))]
    rows = []
    for length in lens:
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < length:
            first = int(rng.integers(BLOCK))
            count = int(rng.integers(1, BLOCK - first + 1))
            parts.append(free.pop()[first : first + count] if rng.random() < 0.5 else free.pop())
        rows.append(np.concatenate(parts)[:length])
    return rows


def test_threads_share_the_queries() -> None:
    """More threads than queries, and many of each, give what one thread gives, bit for bit."""
    rng = np.random.default_rng(0)
    keys, values = torch.randn(64, 2, 16, BLOCK), torch.randn(64, 2, BLOCK, 16)
    starts = (rng.integers(64, size=(50, 8)) * BLOCK).astype(np.int32)
    counts = np.full((50, 8), BLOCK, np.int32)
    query = torch.randn(300, 4, 16)
    table = BlockTable(
        starts=starts,
        counts=counts,
        slots=starts,
        rows=rng.integers(50, size=300),
        lens=rng.integers(1, 65, size=300),
    )
    table.bounds = np.array([0, 300], np.int32)
    outputs = []
    for bounds in ([0, 300], [0, 100, 300], [0, 0, 7, 300, 300]):
        table.bounds = np.array(bounds, np.int32)
        outputs.append(kernel().attend(query, keys, values, table, 0.25, None))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("size", [1, 7, 8, 24, 128, 130])
def test_norm_rotation_and_gate_equal_torch(size: int) -> None:
    """What lies between the matrix products, for sizes that vectors divide and those that they do not."""
    generator = torch.Generator().manual_seed(size)
    x, added = (3 * torch.randn(5, size, generator=generator) for _ in range(2))
    weight = torch.randn(size, generator=generator)
    for extra in (None, added):
        mine, theirs = x.clone(), x.clone()
        output = kernel().add_norm(mine, extra, weight, 1e-6, torch.float32)
        wanted = TorchOperations().add_norm(theirs, extra, weight, 1e-6, torch.float32)
        torch.testing.assert_close(output, wanted, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    if size % 2 == 0:
        q, k = torch.randn(5, 3, size, generator=generator), torch.randn(5, 1, size, generator=generator)
        cos, sin = torch.randn(5, size, generator=generator), torch.randn(5, size, generator=generator)
        mine, theirs = (q.clone(), k.clone()), (q.clone(), k.clone())
        kernel().rotate(*mine, cos, sin)
        TorchOperations().rotate(*theirs, cos, sin)
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    gate, up = 20 * torch.randn(8, size, generator=generator), torch.randn(8, size, generator=generator)
    wanted = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(kernel().gate(gate.clone(), up), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [7, 8, 24, 136])
def test_operations_in_bfloat16_round_what_float32_gives(size: int) -> None:
    """Inputs and outputs of matrix products; hidden states stay float32. gate and up lie side by side in wider rows."""
    generator = torch.Generator().manual_seed(size)
    x, weight = torch.randn(5, size, generator=generator), torch.randn(size, generator=generator)
    added = torch.randn(5, size, generator=generator).bfloat16()
    mine, theirs = x.clone(), x.clone()
    output = kernel().add_norm(mine, added, weight, 1e-6, torch.bfloat16)
    wanted = kernel().add_norm(theirs, added.float(), weight, 1e-6, torch.float32)
    assert torch.equal(mine, theirs)
    torch.testing.assert_close(output.float(), wanted, rtol=2.0**-8, atol=0)
    both = (9 * torch.randn(6, 2 * size, generator=generator)).bfloat16()
    gate, up = both.split(size, -1)
    wanted = torch.nn.functional.silu(gate.float()) * up.float()
    # Sizes that vectors do not divide are left to torch, which rounds twice.
    output = kernel().gate(gate.clone(), up.clone()) if size % BLOCK else kernel().gate(gate, up)
    torch.testing.assert_close(output.float(), wanted, rtol=2.0**-7, atol=1e-30)


def test_extreme_scores_are_softened_exactly() -> None:
    """Scores hundreds apart leave one key; equal ones share evenly."""
    keys, values = torch.zeros(2, 1, 8, BLOCK), torch.arange(2.0 * BLOCK * 8).reshape(2, 1, BLOCK, 8)
    keys[1, 0, 0, 3] = 500.0
    starts, counts = np.array([[0, 8]], np.int32), np.full((1, 2), BLOCK, np.int32)
    table = BlockTable(starts=starts, counts=counts, slots=starts, rows=np.array([0, 0]), lens=np.array([16, 8]))
    query = torch.zeros(2, 1, 8)
    query[:, 0, 0] = 1.0
    output = kernel().attend(query, keys, values, table, 1.0, None)
    torch.testing.assert_close(output[0, 0], values[1, 0, 3])
    torch.testing.assert_close(output[1, 0], values[0, 0].mean(0))

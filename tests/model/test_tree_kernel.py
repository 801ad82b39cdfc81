"""The compiled attention over packed trees, against a dense mask in float64."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention.flex_attention import create_block_mask

from treepo.model import attention
from treepo.model.attention import AttentionContext, FlexTreeAttention, TreeAttention, tree_attention
from treepo.model.kernels.compile import load_kernels
from treepo.model.kernels.tree_attention import CpuTreeAttention

kernels = load_kernels("tree_attention.c")
needs_compiler = pytest.mark.skipif(kernels is None, reason="no C compiler")


def random_positions(rng: np.random.Generator, length: int, branching: float) -> list[int]:
    """Depths of a random tree's tokens in depth-first order."""
    positions = [0]
    while len(positions) < length:
        deeper = rng.random() >= branching
        positions.append(positions[-1] + 1 if deeper else int(rng.integers(1, positions[-1] + 2)))
    return positions


def layout(trees: list[list[int]]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """(offsets, subtree ends, positions) of trees side by side."""
    offsets, ends = [0], []
    for positions in trees:
        start = offsets[-1]
        for i, depth in enumerate(positions):
            after = [j for j in range(i + 1, len(positions)) if positions[j] <= depth]
            ends.append(start + (after[0] if after else len(positions)))
        offsets.append(start + len(positions))
    return offsets, np.array(ends), np.concatenate(trees)


def inputs(rng: np.random.Generator, length: int, heads: int, groups: int, size: int) -> list[Tensor]:
    """Queries, keys, values and a gradient of the output, as transformers lays them out."""
    shapes = [(1, heads, length, size), *[(1, groups, length, size)] * 2, (length, heads, size)]
    return [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]


def results(context: AttentionContext, given: list[Tensor], dtype: torch.dtype, window: int | None) -> list[Tensor]:
    """Output and the gradients of queries, keys and values."""
    *leaves, gradient = (x.to(dtype).clone() for x in given)
    for x in leaves:
        x.requires_grad_()
    output = context(0, *leaves, 0.3, window)
    output.backward(gradient)
    return [output.detach(), *(x.grad for x in leaves if x.grad is not None)]


@needs_compiler
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    branching=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 3), (7, 1)]),
    size=st.sampled_from([2, 8, 20, 32, 64]),
    window=st.sampled_from([None, 1, 5, 37]),
)
@settings(max_examples=60, deadline=None)
def test_output_and_gradients_are_those_of_the_mask(seed, lengths, branching, heads, size, window):
    """Any tree, grouping of heads, head size and window, to float32's rounding."""
    check(seed, lengths, branching, heads, size, window)


@needs_compiler
@pytest.mark.parametrize("window", [None, 300])
def test_long_paths_are_worked_on_in_pieces(window):
    """More keys than are scored at a time; a window begins inside a piece."""
    check(0, [900, 40, 700], 0.01, (4, 2), 16, window)


def check(seed, lengths, branching, heads, size, window):
    """Compare with float64."""
    rng = np.random.default_rng(seed)
    offsets, ends, positions = layout([random_positions(rng, n, branching) for n in lengths])
    given_ = inputs(rng, len(positions), *heads, size)
    dense = TreeAttention(offsets, torch.from_numpy(ends), torch.from_numpy(positions))
    assert kernels is not None
    compiled = CpuTreeAttention(kernels, offsets, positions)
    expected = results(dense, given_, torch.float64, window)
    got = results(compiled, given_, torch.float32, window)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-5)


@needs_compiler
def test_a_tree_has_the_same_bits_in_every_batch(monkeypatch):
    """Whoever else is in the batch, and however many threads there are."""
    rng = np.random.default_rng(1)
    trees = [random_positions(rng, n, 0.1) for n in (50, 200, 30)]
    offsets, _, positions = layout(trees)
    given_ = inputs(rng, len(positions), 4, 2, 16)
    assert kernels is not None
    together = results(CpuTreeAttention(kernels, offsets, positions), given_, torch.float32, None)
    own = [x[:, :, 50:250] for x in given_[:3]] + [given_[3][50:250]]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = results(CpuTreeAttention(kernels, [0, 200], np.array(trees[1])), own, torch.float32, None)
    assert torch.equal(alone[0], together[0][50:250])
    for one, other in zip(alone[1:], together[1:], strict=True):
        assert torch.equal(one, other[:, :, 50:250])


@needs_compiler
@pytest.mark.parametrize("sizes", [(16, 8), (8, 24)])
def test_keys_and_values_may_differ_in_size(sizes):
    """As in multi-head latent attention."""
    rng = np.random.default_rng(3)
    offsets, ends, positions = layout([random_positions(rng, n, 0.1) for n in (60, 20)])
    key_size, value_size = sizes
    given_ = inputs(rng, 80, 4, 2, key_size)[:2] + inputs(rng, 80, 4, 2, value_size)[2:]
    assert kernels is not None
    dense = TreeAttention(offsets, torch.from_numpy(ends), torch.from_numpy(positions))
    expected = results(dense, given_, torch.float64, None)
    got = results(CpuTreeAttention(kernels, offsets, positions), given_, torch.float32, None)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-5)


FLEX_LAYOUTS = {
    "long stem": [[*range(300), *[d for _ in range(4) for d in range(300, 450)]], [0, 1]],
    "random": [random_positions(np.random.default_rng(4), n, 0.02) for n in (500, 290, 1)],
    "chains": [list(range(200)), list(range(700))],
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 7, 200])
@pytest.mark.parametrize("trees", FLEX_LAYOUTS)
def test_flex_attention_shows_the_same(trees, window):
    """Its block mask, in the eager form that runs without a GPU (and without gradients there)."""
    rng = np.random.default_rng(2)
    offsets, ends, positions = (torch.as_tensor(x) for x in layout(FLEX_LAYOUTS[trees]))
    *given_, _ = inputs(rng, len(positions), 4, 2, 16)
    q, k, v = (x.float() for x in given_)
    flex = FlexTreeAttention(ends, positions)(0, q, k, v, 0.3, window)
    dense = TreeAttention(offsets.tolist(), ends, positions)(0, q, k, v, 0.3, window)
    torch.testing.assert_close(flex, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 7, 200])
@pytest.mark.parametrize("trees", FLEX_LAYOUTS)
def test_blocks_that_nobody_sees_are_skipped(trees, window):
    """The blocks worked out from bounds hold all that the mask of all pairs holds, and without a window no others."""
    _, ends, positions = (torch.as_tensor(x) for x in layout(FLEX_LAYOUTS[trees]))
    mask = FlexTreeAttention(ends, positions).mask(window)
    length = mask.seq_lengths[0]
    exact = create_block_mask(mask.mask_mod, None, None, length, length, device="cpu", BLOCK_SIZE=128)
    bounded, needed = mask.to_dense()[0, 0] > 0, exact.to_dense()[0, 0] > 0
    assert not (needed & ~bounded).any()
    if window is None:
        assert torch.equal(bounded, needed)
    assert exact.full_kv_num_blocks is not None and mask.full_kv_num_blocks is not None
    assert (mask.full_kv_num_blocks <= exact.full_kv_num_blocks).all()
    if trees == "long stem" and window is None:
        assert int(mask.full_kv_num_blocks.sum()) > 0
        assert int(needed.sum()) < len(needed) * (len(needed) + 1) / 2


def test_too_many_compilations_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past Dynamo's limit FlexAttention ran as dense attention, of the size of all pairs, and nobody was told. Batches
    of fewer than 128 tokens were compiled for themselves."""
    eager = partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", eager)
    attention._compiled.cache_clear()
    monkeypatch.setattr(attention, "MAX_GRAPHS", 1)
    options = attention.kernel_options(16, torch.float32, (8, 0))
    masks = [FlexTreeAttention(torch.full((n,), n), torch.arange(n)).mask(None) for n in (1000, 60, 300)]
    try:
        with torch._dynamo.config.patch(recompile_limit=1), torch.no_grad():
            attend = attention._compiled()
            zeros = [torch.zeros(1, 2, mask.seq_lengths[0], 16) for mask in masks]
            for x, mask in zip(zeros, masks, strict=True):
                attend(x, x, x, mask, options)
            with pytest.raises(FailOnRecompileLimitHit):
                attend(*(zeros[0].bfloat16() for _ in range(3)), masks[0], {})
    finally:
        attention._compiled.cache_clear()
        torch._dynamo.reset()


def test_blocks_of_keys_fit_the_smallest_gpu() -> None:
    """Inductor's choice for float32 and large heads needed up to 177 KiB of shared memory, and the first update failed;
    an L4 or RTX 4090 has 99. The forward pass holds a block of queries, and of keys and values per stage; what the
    kernels need as they are compiled: `benchmarks/flex_kernels.py`."""
    for dtype, size in itertools.product((torch.float32, torch.bfloat16), (64, 128, 256)):
        options = attention.kernel_options(size, dtype, (8, 9))
        if dtype == torch.bfloat16 and size <= 128:
            assert options == {}
            continue
        rows, columns, stages = (int(options[f"fwd_{name}"]) for name in ("BLOCK_M", "BLOCK_N", "num_stages"))
        assert (rows + 2 * columns * stages) * size * dtype.itemsize <= 99 * 1024
        # Blocks divide those of the mask; else Inductor drops them.
        assert all(attention.BLOCK % int(value) == 0 for name, value in options.items() if "BLOCK" in name)
    assert attention.kernel_options(256, torch.bfloat16, (9, 0)) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 7, 200])
@pytest.mark.parametrize("size", [8, 64, 256])
@pytest.mark.parametrize("trees", FLEX_LAYOUTS)
def test_flex_attention_has_the_same_gradients(trees, size, window):
    """Compiled, on a GPU, against the mask in float64 there."""
    rng = np.random.default_rng(5)
    offsets, ends, positions = layout(FLEX_LAYOUTS[trees])
    device = torch.device("cuda")
    given_ = [x.to(device) for x in inputs(rng, len(positions), 4, 2, size)]
    dense = tree_attention(offsets, ends, positions, device, torch.float64)
    flex = tree_attention(offsets, ends, positions, device, torch.float32)
    assert type(flex) is FlexTreeAttention
    expected = results(dense, given_, torch.float64, window)
    for dtype, atol in ((torch.float32, 5e-3), (torch.bfloat16, 0.2)):
        for one, other in zip(results(flex, given_, dtype, window), expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=0.05, atol=atol)


def test_the_rule():
    """float64 gets the mask, everything else on the CPU the kernel, if there is one."""
    offsets, ends, positions = layout([[0, 1, 2]])
    cpu = torch.device("cpu")
    kind = CpuTreeAttention if kernels else TreeAttention
    assert type(tree_attention(offsets, ends, positions, cpu, torch.float64)) is TreeAttention
    assert type(tree_attention(offsets, ends, positions, cpu, torch.float32)) is kind
    assert type(tree_attention(offsets, ends, positions, cpu, torch.bfloat16)) is kind
    assert type(tree_attention(offsets, ends, positions, torch.device("meta"), torch.float32)) is TreeAttention

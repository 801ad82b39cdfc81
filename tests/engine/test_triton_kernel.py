"""The Triton kernel against the one in torch, in Triton's interpreter or, where there is one, on a GPU."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")

SCRIPT = """
import numpy as np, torch
from treepo.engine.torch import query_tiles
from treepo.engine.torch.attention import BlockTable, GatherKernel
from treepo.engine.torch.kv_cache import BLOCK, KVCache
from treepo.engine.torch.triton import TritonKernel

device = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies bfloat16 as if it were whole numbers.
half = torch.bfloat16 if device == "cuda" else torch.float16
rng = np.random.default_rng(0)


def forward(num_paths, prompt_len, num_slots):
    # Rows of slots in a cache of 60 blocks, and queries: paths that share 64 slots or 96, one that shares none, and
    # the tokens of a prompt.
    order = rng.permutation(60 * BLOCK).astype(np.int32)
    slots = np.stack([rng.permutation(60 * BLOCK) for _ in range(num_paths + 2)]).astype(np.int32)[:, :num_slots]
    slots[:num_paths, :64] = order[:64]
    slots[: num_paths // 2, 64:96] = order[64:96]
    lens = [*rng.integers(97, num_slots, size=num_paths + 1), *range(40, 40 + prompt_len)]
    rows = [*range(num_paths + 1), *[num_paths + 1] * prompt_len]
    return order, slots, np.array(rows), np.array(lens)


query_tiles.MIN_GAIN = 1
loads = []
if device == "cpu":
    from triton.runtime.interpreter import interpreter_builder
    load = interpreter_builder.create_masked_load
    interpreter_builder.create_masked_load = lambda *args: loads.append(args[:2]) or load(*args)

for groups, heads_per_group, size, window, dtype, num_paths, prompt_len, processors in [
    (2, 2, 32, None, torch.float32, 0, 3, 1), (1, 3, 24, None, torch.float32, 1, 1, 100),
    (2, 3, 24, 5, torch.float32, 4, 0, 1), (1, 7, 80, 70, torch.float32, 18, 0, 1),
    (1, 1, 16, None, torch.float32, 2, 18, 20), (1, 10, 32, None, half, 5, 0, 20),
]:
    order, slots, rows, seen = forward(num_paths, prompt_len, 150)
    key, value = (torch.randn(len(order), groups, size, device=device).to(dtype) for _ in range(2))
    query = torch.randn(len(rows), groups * heads_per_group, size, device=device).to(dtype)
    tiles, in_tiles = query_tiles.query_tiles(slots, rows, seen)
    outputs = []
    ours = TritonKernel()
    # As if there were so many: several programs share few queries.
    ours.num_processors = lambda device: processors
    for kernel in (ours, GatherKernel()):
        assert kernel.supports(key, value)
        pool = KVCache(60, dtype)
        pool.reserve(60)
        keys, values = pool.layer(0, key, value)
        kernel.store(key, value, keys, values, order)
        table = BlockTable(starts=slots, counts=slots, slots=slots, rows=rows, lens=seen)
        loads.clear()
        outputs.append((kernel.attend(query, keys, values, table, 0.2, window), keys.clone(), values.clone()))
        if loads and not window:
            first, end = keys.data_ptr(), keys.data_ptr() + keys.nbytes
            num_read = sum(((at.data >= first) & (at.data < end) & mask.data).sum() for at, mask in loads)
            # Of more heads than MAX_HEADS each half reads a tile's slots.
            expected = -(-heads_per_group // 8) * tiles[:, 3].sum() + (seen - in_tiles).sum()
            assert num_read == expected * groups * size
    tolerance = 2e-2 if dtype == half else 1e-5
    torch.testing.assert_close(outputs[0][0], outputs[1][0], rtol=tolerance, atol=tolerance)
    assert torch.equal(outputs[0][1], outputs[1][1]) and torch.equal(outputs[0][2], outputs[1][2])
    print("equal", groups, heads_per_group, size, window, dtype, len(tiles))

from treepo.model.forward import TorchOperations

ours, theirs = TritonKernel(), TorchOperations()
for dtype, between, heads, groups, size in (
    (torch.float32, torch.float32, 3, 1, 24), (half, half, 9, 2, 128), (torch.float32, half, 2, 2, 160),
):
    def random(*shape):
        return 3 * torch.randn(*shape, device=device)

    tolerance = 1e-5 if between == torch.float32 else 5e-3
    weight = random(heads * size).to(dtype)
    x, added = random(5, heads * size).to(dtype), random(5, 2 * heads * size).to(between)[:, : heads * size]
    for extra in (None, added):
        pairs = [(one.add_norm(own := x.clone(), extra, weight, 1e-6, between), own) for one in (ours, theirs)]
        torch.testing.assert_close(*pairs, rtol=tolerance, atol=tolerance)
        assert torch.equal(pairs[0][1], pairs[1][1])
    # Heads side by side in one row, and their norms.
    wide = random(5, (heads + groups) * size).to(between)
    cos, sin = random(5, size).to(between), random(5, size).to(between)
    pairs = []
    for one in (ours, theirs):
        query, key = (part.view(5, -1, size) for part in wide.clone().split([heads * size, groups * size], -1))
        one.rotate(query, key, cos, sin)
        pairs.append((query, key, one.add_norm(key, None, weight[:size], 1e-6, between)))
    torch.testing.assert_close(*pairs, rtol=tolerance, atol=4 * tolerance)
    gate, up = wide[:, : heads * size], wide[:, -heads * size :]
    torch.testing.assert_close(ours.gate(gate, up), theirs.gate(gate, up), rtol=tolerance, atol=tolerance)
    print("computed", dtype, between, size)

from treepo.engine.base import SamplingParams
from treepo.engine.sampling import BatchSamplingParams, draw, split_drawn
from treepo.engine.triton_sampling import draw_fused

kinds = [
    {}, {"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 3000},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.01, "temperature": 1.4},
]
batch = BatchSamplingParams.of([SamplingParams(**kind) for kind in kinds])
numbers, tensors = torch.from_numpy(rng.random(len(kinds))).to(device), [torch.from_numpy(x) for x in batch.arrays()]
tensors = [x.to(device) for x in tensors]
for vocab_size, dtype, rounding in ((29, torch.float32, 1), (2100, half, 2)):
    logits = torch.from_numpy(rng.normal(size=(len(kinds), vocab_size)) * 3)
    # Many equal ones: which of them are kept follows from their order.
    logits = (torch.round(logits / rounding) * rounding).to(device, dtype)
    loads.clear()
    tokens, logprobs = split_drawn(draw_fused(logits, numbers, tensors, has_greedy=True, truncates=True))
    if loads:
        first, end = logits.data_ptr(), logits.data_ptr() + logits.nbytes
        num_read = sum(((at.data >= first) & (at.data < end) & mask.data).sum() for at, mask in loads)
        # Three times by each, once more where tokens are left out, and by those of top-k or top-p 15 times for each.
        assert num_read <= (3 * 8 + 8 + 15 * 5) * vocab_size
    # On the CPU rows are sorted.
    expected = split_drawn(draw(logits.cpu(), numbers.cpu(), batch.kinds, [x.cpu() for x in tensors]))
    assert tokens.tolist() == expected[0].tolist()
    np.testing.assert_allclose(logprobs, expected[1], atol=1e-5)
    print("drawn", vocab_size, dtype)
"""


def test_all_that_runs_on_gpus_equals_torch() -> None:
    """Heads and sizes that are no powers of two, windows, scattered slots, both types; with tiles of queries and
    without. Each key that paths share, or tokens of a prompt, is read once per tile: so many bytes are loaded, and no
    more. Norms, rotations and gates are torch's, also of parts of wider rows. Tokens are sampled without a sort as with
    one, also where many are equally likely. Triton reads whether it is to interpret when it is imported, so this runs
    in a process of its own."""
    import torch

    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(word) for word in ("equal", "computed", "drawn")] == [6, 3, 2]


SHARED_MEMORY = 99 * 1024
"""Bytes that a program may have on the GPUs with the least, compute capability 8.6 and 8.9."""


def compiled(
    fn: Any, arguments: dict[str, str], constants: dict[str, int], multiples: tuple[str, ...] = (), **options: Any
) -> Any:
    """A kernel for a GPU of a `capability`, which need not be there. multiples: numbers that are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    signature = arguments | dict.fromkeys(constants, "constexpr")
    # Tensors begin at multiples of 16 bytes.
    is_aligned = [kind.startswith("*") or name in multiples for name, kind in arguments.items()]
    aligned = {(i,): [["tt.divisibility", 16]] for i, one in enumerate(is_aligned) if one}
    source = ASTSource(fn=fn, signature=signature, constexprs=constants, attrs=aligned)
    return compile_kernel(source, target=GPUTarget("cuda", options.pop("capability"), 32), options=options)


def spilled_bytes(kernel: Any, folder: Path) -> int:
    """Bytes of each thread that do not fit into registers."""
    import triton

    (cubin := folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage)[1])


@pytest.mark.parametrize(
    ("capability", "dtype", "heads_per_group", "size", "is_part", "is_tile"),
    [
        (80, "bf16", 6, 128, False, False),
        (80, "fp32", 1, 256, True, False),
        (90, "bf16", 3, 64, True, False),
        (80, "bf16", 6, 128, True, True),
        (90, "bf16", 8, 96, True, True),
        (90, "bf16", 7, 256, True, True),
        (80, "fp32", 8, 64, True, True),
        (90, "fp32", 6, 96, True, True),
    ],
)
def test_keys_and_values_are_copied_16_bytes_at_a_time(
    capability: int,
    dtype: str,
    heads_per_group: int,
    size: int,
    is_part: bool,
    is_tile: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys used to lie with the slots of a block innermost: each thread read them in 64 loads of two bytes, which
    waited for memory. Now both are copied asynchronously, the next ones while these are multiplied; and products of
    16 bits are those of tensor cores, on Hopper the wide ones where a tile has 64 rows. A thread's numbers fit into its
    registers: those of tiles in float32 took up to 15,000 bytes more, which went through memory in each product."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from treepo.engine.torch import triton as module

    itemsize = 2 if dtype == "bf16" else 4
    sizes = module.tile_sizes(heads_per_group, size, itemsize, module.MAX_QUERIES if is_tile else 1)
    options = module.options_of(sizes, itemsize)
    tensors = dict.fromkeys(("query", "keys", "values", "output"), f"*{dtype}")
    tensors |= {"output": "*fp32"} if is_part else {}
    tensors |= {"logsums": "*fp32"}
    table = dict.fromkeys(("slots", "rows", "lens", "in_tiles", "tiles"), "*i32")
    numbers = dict.fromkeys(("row_len", "num_queries", "num_groups", "scale", "window"), "i32") | {"scale": "fp32"}
    constants = sizes | {"IS_PART": is_part}
    kernel = compiled(module._attend, tensors | table | numbers, constants, capability=capability, **options)
    ptx = kernel.asm["ptx"]
    # Keys and values, before the loop and in it, with 16 bytes for each thread.
    tile_bytes, num_threads = sizes["SLOTS"] * sizes["PADDED"] * itemsize, 32 * kernel.metadata.num_warps
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], 0x(\w+)", ptx)
    assert copies.count("10") >= 2 * 2 * tile_bytes // (num_threads * 16)
    # The others copy slots: a few, of which Triton 3.6 makes one for each step ahead and part of the loop.
    assert set(copies) <= {"10", "4"} and copies.count("4") <= copies.count("10")
    assert not re.search(r"ld\.global[.\w]*\.[bu](8|16)\b", ptx)
    assert kernel.metadata.shared <= SHARED_MEMORY
    assert spilled_bytes(kernel, tmp_path) <= 64
    if dtype == "bf16":
        assert ("wgmma.mma_async" if capability == 90 and sizes["ROWS"] >= 64 else "mma.sync") in ptx
    if is_part:
        merged = {"parts": "*fp32", "logsums": "*fp32", "output": f"*{dtype}", "lens": "*i32", "in_tiles": "*i32"}
        merged |= {"tile_splits": "i32", "splits": "i32"}
        constants = {"PARTS": module.MAX_PARTS, "D": size, "PADDED": sizes["PADDED"]}
        compiled(module._merge, merged, constants, capability=capability, **module.OPTIONS)


def test_no_forward_needs_another_kernel() -> None:
    """Triton compiled one for each kind of row length, of number of queries, of window, and of number of splits."""
    from treepo.engine.torch import triton as module

    for kernel in (module._attend, module._merge):
        assert {p.name for p in kernel.params if p.do_not_specialize} == set(module.CHANGING) & set(kernel.arg_names)


def test_new_keys_and_values_are_stored_in_wide_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No store of two bytes."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from treepo.engine.torch import triton as module

    tensors = dict.fromkeys(("key", "value", "keys", "values"), "*bf16") | {"slots": "*i32", "num_groups": "i32"}
    sizes = {"D": 128, "PADDED": 128, "LANES": 8}
    ptx = compiled(module._store, tensors, sizes, capability=90, **module.STORE_OPTIONS).asm["ptx"]
    stores = re.findall(r"st\.global[.\w]*", ptx)
    assert stores and all(re.search(r"v[248]|b(32|64|128)", store) for store in stores)


def test_between_matrix_products_numbers_move_in_wide_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, rotations and gates of bfloat16 load and store at least 8 bytes at a time, but for what all heads share: a
    norm's weights, sines and cosines."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from treepo.engine.torch import triton_operations as module

    def check(
        fn: Any, tensors: str, numbers: str, constants: dict[str, int], *, multiples: str = "", num_shared: int = 0
    ) -> None:
        arguments = dict.fromkeys(tensors.split(), "*bf16") | dict.fromkeys(numbers.split(), "i32")
        arguments |= {"eps": "fp32"} if "eps" in arguments else {}
        kernel = compiled(fn, arguments, constants, tuple(multiples.split()), capability=90, **module.OPTIONS)
        accesses = re.findall(r"(?:ld|st)\.global[.\w]*", kernel.asm["ptx"])
        narrow = [access for access in accesses if not re.search(r"v[24]\.b32|v4\.b16|b64", access)]
        assert len(accesses) > len(narrow) <= num_shared and not any(access.startswith("st") for access in narrow)
        assert spilled_bytes(kernel, tmp_path) == 0

    norm = {"HAS_ADDED": True, "ROWS": 1, "D": 1536, "PADDED": 2048}
    check(module._add_norm, "x added weight output", "eps num_rows", norm)
    norm |= {"ROWS": 8, "D": 128, "PADDED": 128}
    check(module._add_norm, "x added weight output", "eps num_rows", norm, num_shared=1)
    strides, sizes = "query_stride key_stride", {"HEADS": 16, "D": 128, "HALF": 64}
    numbers = f"{strides} num_heads num_groups"
    check(module._rotate, "query key cos sin", numbers, sizes, multiples=strides, num_shared=4)
    sizes = "gate_stride up_stride size"
    check(module._gate, "gate up output", sizes, {"TILE": 1024}, multiples=sizes)


@pytest.mark.parametrize(("capability", "truncates"), [(80, False), (90, True)])
def test_logits_are_read_16_bytes_at_a_time(
    capability: int, truncates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the vocabulary is a multiple of 16, as it mostly is; and nothing is written but tokens and
    log-probabilities."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from treepo.engine import triton_sampling as module

    tensors = {"logits": "*bf16", "thresholds": "*fp64", "divisors": "*fp32", "argmax_wins": "*i1", "top_k": "*i64"}
    tensors |= {"top_p": "*fp64", "min_p": "*fp64", "drawn": "*i32"}
    kinds = {"HAS_GREEDY": False, "TRUNCATES": truncates} | module.tile_sizes(151_936)
    sizes, options = {"size": "i32", "stride": "i32"}, module.OPTIONS | {"capability": capability}
    ptx = compiled(module._draw, tensors | sizes, kinds, ("size", "stride"), **options).asm["ptx"]
    loads = re.findall(r"ld\.global[.\w]*", ptx)
    assert any("v4.b32" in load for load in loads)
    # The logit of the token.
    assert sum(load.endswith("16") for load in loads) <= 1
    assert ptx.count("st.global") <= 2

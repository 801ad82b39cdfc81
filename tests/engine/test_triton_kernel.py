"""The Triton kernel against the one in torch, in Triton's interpreter or, where there is one, on a GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")

SCRIPT = """
import numpy as np, torch
from treepo.engine.torch.attention import BlockTable, GatherKernel
from treepo.engine.torch.kv_cache import BLOCK, KVCache
from treepo.engine.torch.triton import TritonKernel

device = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies bfloat16 as if it were whole numbers.
half = torch.bfloat16 if device == "cuda" else torch.float16
rng = np.random.default_rng(0)
for groups, heads_per_group, size, window, dtype in [
    (1, 1, 16, None, torch.float32), (2, 2, 32, None, torch.float32), (2, 3, 24, 5, torch.float32),
    (1, 7, 80, 70, torch.float32), (2, 2, 32, None, half),
]:
    lens = rng.integers(1, 150, size=3)
    slots = np.zeros((3, 150), np.int32)
    order = rng.permutation(60 * BLOCK)[: lens.sum()]
    for row, (begin, n) in enumerate(zip(np.cumsum(lens) - lens, lens)):
        slots[row, :n] = order[begin : begin + n]
    key, value = (torch.randn(int(lens.sum()), groups, size, device=device).to(dtype) for _ in range(2))
    query = torch.randn(7, groups * heads_per_group, size, device=device).to(dtype)
    rows = rng.integers(3, size=7)
    seen = np.array([rng.integers(1, lens[r] + 1) for r in rows])
    outputs = []
    for kernel in (TritonKernel(), GatherKernel()):
        assert kernel.supports(key, value)
        pool = KVCache(60, None)
        pool.reserve(60)
        keys, values = pool.layer(0, key, value)
        kernel.store(key, value, keys, values, order.astype(np.int32))
        table = BlockTable(starts=slots, counts=slots, slots=slots, rows=rows, lens=seen)
        outputs.append((kernel.attend(query, keys, values, table, 0.2, window), keys.clone(), values.clone()))
    tolerance = 2e-2 if dtype == half else 1e-5
    torch.testing.assert_close(outputs[0][0], outputs[1][0], rtol=tolerance, atol=tolerance)
    assert torch.equal(outputs[0][1], outputs[1][1]) and torch.equal(outputs[0][2], outputs[1][2])
    print("equal", groups, heads_per_group, size, window, dtype)
"""


def test_attention_and_storage_equal_those_in_torch() -> None:
    """Heads and sizes that are no powers of two, windows, scattered slots, both types. Triton reads whether it is to
    interpret when it is imported, so this runs in a process of its own."""
    import torch

    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 5

"""Attention over the engine's cache: is it right, which share of the memory's bandwidth does it reach, and what does
reading shared slots once save?"""

from collections.abc import Callable

import numpy as np
import torch

from gpu_checks.checks import PEAK_FLOPS, Checks
from treepo.engine.torch.attention import BlockTable, GatherKernel
from treepo.engine.torch.backends import make_kernel
from treepo.engine.torch.kv_cache import BLOCK

HEADS = ((2, 12, 64), (2, 12, 96), (2, 12, 128), (2, 12, 256), (1, 8, 128), (8, 8, 128))
"""Key heads, query heads and head sizes: each has three kernels, which Triton compiles for a second or two each."""


def kernel(checks: Checks) -> None:
    """Attention over the cache against gathering; then the share of the bandwidth of a copy that it reaches."""
    dtypes = (torch.float32,) if checks.is_tiny else (torch.bfloat16, torch.float32)
    for dtype in dtypes:
        worst = 0.0
        for heads in HEADS:
            for window in (None, 40):
                for options in ({}, *({"shared": 448}, {"num_queries": 30}) * (not checks.is_tiny)):
                    rows, length = (49, 500) if options else (17, 133)
                    ours, wanted = (
                        attended(checks, one, rows, length, heads, dtype, window, **options)()
                        for one in (make_kernel(checks.device), GatherKernel())
                    )
                    worst = max(worst, (ours - wanted).abs().max().item())
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
        checks.add(f"kernel/max_diff/{dtype}".replace("torch.", ""), worst, f"at most {tolerance}", worst <= tolerance)
    shapes = ((4, 64),) if checks.is_tiny else ((1024, 704), (64, 8192), (16, 16384))
    peak = copy_bandwidth(checks)
    for num_rows, length in shapes:
        work = attended(checks, make_kernel(checks.device), num_rows, length, (2, 12, 128), dtypes[0], None)
        share = 2 * num_rows * length * 2 * 128 * dtypes[0].itemsize / checks.timed(work) / peak
        checks.add_speed(
            f"kernel/bandwidth/{num_rows}x{length}", round(share, 3), "at least 0.7 of a copy's", share >= 0.7
        )
    if not checks.is_tiny:
        tiles(checks)
        grid(checks, peak)


def tiles(checks: Checks) -> None:
    """What 16 paths gain that share a prefix, and how fast prompts are computed."""
    kernel, heads = make_kernel(checks.device), (2, 12, 128)
    for num_rows in (64, 1024):
        # Without a common prefix, and with one.
        works = [attended(checks, kernel, num_rows, 2304, heads, torch.bfloat16, None, shared=n) for n in (0, 2048)]
        gain = checks.timed(works[0]) / checks.timed(works[1])
        checks.add(f"kernel/shared_prefix/{num_rows}", round(gain, 2), "at least 2, of 6 by bytes", gain >= 2)
    work = attended(checks, kernel, 4, 2048, heads, torch.bfloat16, None, num_queries=2048)
    share = 4 * 4 * 12 * 128 * 2048 * 2049 / 2 / checks.timed(work) / PEAK_FLOPS
    checks.add("kernel/prompts/share_of_peak", round(share, 3), "at least 0.1; 4 prompts of 2,048", share >= 0.1)


def grid(checks: Checks, peak: float) -> None:
    """The share of a copy's bandwidth over head sizes, groups, windows and types, at 256 rows of 2,048 slots."""
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        for groups, heads, size in HEADS:
            for window in (None, 512):
                work = attended(checks, make_kernel(checks.device), 256, 2048, (groups, heads, size), dtype, window)
                num_bytes = 2 * 256 * (window or 2048) * groups * size * dtype.itemsize
                name = f"{dtype}/size{size}/{heads}over{groups}/window{window}".replace("torch.", "")
                found[name] = round(num_bytes / checks.timed(work, 5, 2) / peak, 3)
    checks.add("kernel/grid", found, "shown; shares of a copy's bandwidth", passed=True)


def attended(
    checks: Checks,
    kernel: GatherKernel,
    num_rows: int,
    length: int,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    window: int | None,
    shared: int = 0,
    num_queries: int = 1,
) -> Callable[[], torch.Tensor]:
    """Attention of the last queries of each row, over rows of a length. heads: key heads, query heads, their size.
    shared: how many slots 16 rows have in common, whole blocks.
    """
    groups, num_heads, size = heads
    num_blocks = -(-length // BLOCK) * num_rows
    generator = torch.Generator(checks.device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=checks.device, generator=generator).to(dtype)

    query, keys, values = (
        random(num_rows * num_queries, num_heads, size),
        *(random(num_blocks, groups, BLOCK, size) for _ in "kv"),
    )
    slots = np.arange(num_blocks * BLOCK, dtype=np.int32).reshape(num_rows, -1)
    slots[:, :shared] = slots[np.arange(num_rows) // 16 * 16, :shared]
    starts = slots[:, ::BLOCK].copy()
    counts = np.clip(length - np.arange(starts.shape[1]) * BLOCK, 0, BLOCK).astype(np.int32)
    rows, lens = (
        np.repeat(np.arange(num_rows), num_queries),
        np.tile(length + 1 - np.arange(num_queries, 0, -1), num_rows),
    )
    stored = keys.mT.contiguous() if kernel.keys_transposed else keys
    table = BlockTable(
        starts=starts, counts=np.tile(counts, (num_rows, 1)), slots=slots, rows=rows, lens=lens, changed=None
    )
    return lambda: kernel.attend(query, stored, values, table, size**-0.5, window).float()


def copy_bandwidth(checks: Checks) -> float:
    """Bytes read and written per second by a copy."""
    source = torch.empty(1 << (20 if checks.is_tiny else 30), dtype=torch.uint8, device=checks.device)
    target = torch.empty_like(source)
    found = 2 * source.numel() / checks.timed(lambda: target.copy_(source))
    checks.add_speed("copy/TB_per_s", round(found / 1e12, 2), "shown", passed=True)
    return found

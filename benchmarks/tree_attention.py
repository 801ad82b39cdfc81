"""Attention over packed trees on the CPU: our kernel against what one would write in torch, forward and backward.

    OMP_NUM_THREADS=2 python benchmarks/tree_attention.py        # two minutes on two cores; results/tree-attention.json

mask: scaled_dot_product_attention per tree under a dense mask. slices: in depth-first order the tokens at or below a
run of tokens without a branch are one range, so attention is a sum over runs of (queries of that range) x (keys of the
run): torch's flash attention on each, merged by log-sum-exp, with its backward run per slice on the merged output.
kernel: treepo/model/tree_attention.c. separate: causal scaled_dot_product_attention over every trajectory on its own,
whose time over the kernel's is to be compared with the ratio of pairs of a token and one above it.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treepo.bench.common import Variant, describe_machine, median_ratio, time_interleaved
from treepo.bench.settings import level_sizes
from treepo.model.attention import AttentionContext, TreeAttention
from treepo.model.kernels.compile import load_kernels
from treepo.model.kernels.tree_attention import CpuTreeAttention

RESULTS = Path(__file__).parent / "results"
FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Case:
    """`count` balanced trees; heads for queries and for keys."""

    distinct: int
    sharing: float
    leaves: int
    count: int
    num_heads: int
    num_groups: int
    head_size: int


CASES = (
    Case(120, 2.5, 8, 32, 4, 2, 32),
    Case(120, 3.6, 8, 32, 4, 2, 32),
    Case(140, 5.0, 16, 32, 4, 2, 32),
    Case(4000, 1.5, 16, 1, 8, 4, 32),
    Case(4000, 2, 16, 1, 8, 4, 32),
    Case(4000, 4, 16, 1, 8, 4, 32),
    Case(4000, 8, 16, 1, 8, 4, 32),
    Case(4000, 2, 16, 1, 8, 4, 64),
    Case(4000, 8, 16, 1, 8, 4, 64),
)
"""The built-in task's trees in small, and those of `benchmarks/update.py`."""


class SlicedTreeAttention:
    """By runs, merged by log-sum-exp. runs: (first, past its end, past the last token below), int [R, 3]."""

    def __init__(self, runs: list[tuple[int, int, int]]) -> None:
        self.runs = runs

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        assert window is None
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
        output = _Slices.apply(query, key, value, self.runs, scale)
        assert isinstance(output, Tensor)
        return output[0].transpose(0, 1)


class _Slices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, runs: list[tuple[int, int, int]], scale: float) -> Tensor:
        output, total = torch.zeros_like(q), q.new_full(q.shape[:3], float("-inf"))
        for first, end, below in runs:
            # Causal from the top left: the run sees itself in order, all that lies below it sees all of it.
            part, lse = FLASH(q[:, :, first:below], k[:, :, first:end], v[:, :, first:end], 0.0, True, scale=scale)
            old = total[:, :, first:below]
            new = torch.logaddexp(old, lse)
            output[:, :, first:below] *= torch.exp(old - new)[..., None]
            output[:, :, first:below] += part * torch.exp(lse - new)[..., None]
            total[:, :, first:below] = new
        ctx.save_for_backward(q, k, v, output, total)
        ctx.settings = runs, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, output, total = ctx.saved_tensors
        runs, scale = ctx.settings
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for first, end, below in runs:
            rows, columns = slice(first, below), slice(first, end)
            own = grads[0][:, :, rows], q[:, :, rows], k[:, :, columns], v[:, :, columns]
            kept = output[:, :, rows], total[:, :, rows]
            parts = FLASH_BACKWARD(*own, *kept, 0.0, True, scale=scale)
            dq[:, :, rows] += parts[0]
            dk[:, :, columns] += parts[1]
            dv[:, :, columns] += parts[2]
        return dq, dk, dv, None, None


@dataclass
class AttentionVariant(Variant):
    """Forward and backward of one implementation."""

    name: str
    work: Callable[[], Tensor]
    gradient: Tensor
    output: Tensor | None = None

    def prepare(self) -> None:
        """Nothing to forget."""

    def run(self) -> None:
        output = self.work()
        output.backward(self.gradient)
        self.output = output.detach()


def balanced(case: Case) -> tuple[list[int], list[int], list[tuple[int, int, int]], int]:
    """(positions, subtree ends, runs) of one tree in depth-first order, and the length of a trajectory."""
    levels = level_sizes(case.distinct, case.sharing, case.leaves)
    lengths = [size // 2**level for level, size in enumerate(levels)]
    positions: list[int] = []
    runs: list[tuple[int, int, int]] = []

    def grow(level: int, depth: int) -> None:
        first, place = len(positions), len(runs)
        positions.extend(range(depth, depth + lengths[level]))
        end = len(positions)
        runs.append((first, end, end))
        if level + 1 < len(lengths):
            grow(level + 1, depth + lengths[level])
            grow(level + 1, depth + lengths[level])
        runs[place] = (first, end, len(positions))

    grow(0, 0)
    ends = [0] * len(positions)
    for first, end, below in runs:
        ends[first:end] = [below] * (end - first)
    return positions, ends, runs, sum(lengths)


def variants(case: Case) -> tuple[list[AttentionVariant], float]:
    """All variants on the same numbers, and the ratio of pairs of separate trajectories to the tree's."""
    positions, ends, runs, length = balanced(case)
    size, count = len(positions), case.count
    offsets = [i * size for i in range(count + 1)]
    all_ends = np.concatenate([np.array(ends) + offset for offset in offsets[:-1]])
    all_positions = np.tile(positions, count)
    all_runs = [(a + o, b + o, c + o) for o in offsets[:-1] for a, b, c in runs]
    torch.manual_seed(0)

    def drawn(rows: int, columns: int) -> list[Tensor]:
        heads = case.num_heads, case.num_groups, case.num_groups
        return [torch.randn(rows, h, columns, case.head_size).requires_grad_() for h in heads]

    q, k, v = drawn(1, size * count)
    kernels = load_kernels("tree_attention.c")
    assert kernels is not None, "a C compiler is needed"
    ways: dict[str, AttentionContext] = {
        "kernel": CpuTreeAttention(kernels, offsets, all_positions),
        "mask": TreeAttention(offsets, torch.from_numpy(all_ends), torch.from_numpy(all_positions)),
        "slices": SlicedTreeAttention(all_runs),
    }
    scale = case.head_size**-0.5
    gradient = torch.randn(size * count, case.num_heads, case.head_size)
    made = [
        AttentionVariant(name, lambda way=way: way(0, q, k, v, scale, None), gradient) for name, way in ways.items()
    ]
    q_alone, k_alone, v_alone = drawn(case.leaves * count, length)
    own = torch.randn(case.leaves * count, case.num_heads, length, case.head_size)
    made.append(AttentionVariant("separate", lambda: causal(q_alone, k_alone, v_alone, scale), own))
    pairs = case.leaves * length * (length + 1) / 2 / sum(p + 1 for p in positions)
    return made, pairs


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """As transformers calls it for trajectories of one length."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


def main(repeats: int) -> None:
    """Measure every case, print a row for each and keep the figures."""
    rows = []
    print("distinct sharing count heads size   kernel ms   mask x  slices x  separate x (pairs x)")
    for case in CASES:
        made, pairs = variants(case)
        seconds = time_interleaved(made, repeats, lambda *_: None)
        outputs = [c.output for c in made[:3] if c.output is not None]
        assert all(torch.allclose(outputs[0], other, atol=1e-4) for other in outputs[1:]), "all compute the same"
        ratios = {c.name: median_ratio(s, seconds[0]) for c, s in zip(made, seconds, strict=True)}
        by_name = {c.name: s for c, s in zip(made, seconds, strict=True)}
        rows.append({"case": asdict(case), "pairs_ratio": pairs, "over_kernel": ratios, "seconds": by_name})
        print(
            f"{case.distinct:8} {case.sharing:7} {case.count:5} {case.num_heads:5} {case.head_size:4} "
            f"{1000 * median(seconds[0]):11.1f} {ratios['mask']:8.2f} {ratios['slices']:9.2f} "
            f"{ratios['separate']:11.2f} ({pairs:.2f})",
            flush=True,
        )
    report = {"command": "python benchmarks/tree_attention.py", "machine": describe_machine("cpu"), "cases": rows}
    (RESULTS / "tree-attention.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)

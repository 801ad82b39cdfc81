"""How much memory a piece of work takes."""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from treepo.bench.rollout_report import BenchReport
from treepo.bench.timing import Progress, median_ratio, time_in_turns
from treepo.bench.update_variants import NAMES, PACKED, PADDED, UpdateContender


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Most bytes of tensors that were alive at a time while `work` ran, beyond those alive before.

    On the CPU every allocation and release that torch makes is counted; what other libraries allocate for themselves is
    not.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler would print two lines; it looks at this when it is first used.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events: list[Any] = profiled.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda change: change[0])
    return max(accumulate((num_bytes for _, num_bytes in changes), initial=0))


@dataclass(frozen=True)
class Measurement:
    """One contender: its seconds per measured round, and what a run of it takes.

    num_forwarded: tokens, with padding. pack_seconds: of `seconds`, before the first forward. peak_bytes: most bytes of
    tensors alive at a time beyond those before the run. gradient_difference: the largest of an element to that of the
    padded contender, over the largest element there.
    """

    name: str
    num_forwarded: int
    seconds: tuple[float, ...]
    pack_seconds: tuple[float, ...]
    peak_bytes: int
    gradient_difference: float


@dataclass(frozen=True)
class Figures(Measurement):
    """One contender compared with the packed one.

    token_ratio, time_ratio, memory_ratio: its tokens, seconds (median over rounds) and peak memory over the packed
    one's. time_of_ideal, memory_of_ideal: the latter two over token_ratio, 1 where packing saves as much as it saves
    tokens.
    """

    token_ratio: float
    time_ratio: float
    time_of_ideal: float
    memory_ratio: float
    memory_of_ideal: float


def measure(contenders: Sequence[UpdateContender], repeats: int, progress: Progress) -> list[Measurement]:
    """Time all contenders in turns, then run each once more for its memory and gradients."""
    seconds = time_in_turns(contenders, repeats, progress)
    pack_seconds = [tuple(c.pack_seconds[-repeats:]) for c in contenders]
    peaks = [_peak(c) for c in contenders]
    padded = next(c for c in contenders if c.name == PADDED).gradients()
    return [
        Measurement(c.name, c.num_forwarded(), whole, packing, peak, relative_difference(c.gradients(), padded))
        for c, whole, packing, peak in zip(contenders, seconds, pack_seconds, peaks, strict=True)
    ]


def compare(measured: Sequence[Measurement]) -> tuple[Figures, ...]:
    """The figures of all contenders; of the packed one all ratios are 1."""
    packed = next(m for m in measured if m.name == PACKED)
    return tuple(_compare(m, packed) for m in measured)


def relative_difference(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest difference of any two elements, over the largest element of the reference."""
    pairs = zip(gradients, reference, strict=True)
    difference = max(float((one.float() - other.float()).abs().max()) for one, other in pairs)
    return difference / max(float(other.abs().max()) for other in reference)


def _compare(own: Measurement, packed: Measurement) -> Figures:
    tokens = own.num_forwarded / packed.num_forwarded
    time = median_ratio(own.seconds, packed.seconds)
    memory = own.peak_bytes / packed.peak_bytes
    return Figures(
        **vars(own),
        token_ratio=tokens,
        time_ratio=time,
        time_of_ideal=time / tokens,
        memory_ratio=memory,
        memory_of_ideal=memory / tokens,
    )


def _peak(contender: UpdateContender) -> int:
    contender.prepare()
    gc.collect()
    return peak_bytes(contender.run, contender.start.device)


JSON_NAME, PLOT_NAME = "update.json", "update.png"


@dataclass(frozen=True)
class WorkloadReport:
    """Contenders that made the same update. num_distinct, num_total: tokens with the prompts, each shared one once, and
    summed over trajectories."""

    num_trees: int
    num_trajectories: int
    num_distinct: int
    num_total: int
    contenders: tuple[Figures, ...]

    @property
    def sharing(self) -> float:
        """Tokens of trajectories per distinct one."""
        return self.num_total / self.num_distinct

    @property
    def title(self) -> str:
        """What the update was on."""
        return (
            f"{self.num_trees} tree{'s' * (self.num_trees > 1)}, {self.num_trajectories} trajectories, "
            f"{self.num_distinct:,} distinct tokens of {self.num_total:,}: sharing {self.sharing:.2f}"
        )


UpdateReport = BenchReport[WorkloadReport]

CAPTION = """tokens: forwarded, with padding. s: packing and the update.
MiB: most memory of tensors beyond what was there before.
gradient: the largest difference to padded's, relative.
x: over packed; of ideal: that over the ratio of tokens."""


def table(workload: WorkloadReport) -> Table:
    """One row per contender, within 80 columns."""
    shown = Table(title=workload.title, caption=CAPTION, box=SIMPLE_HEAD, pad_edge=False, padding=0, min_width=80)
    shown.add_column("", no_wrap=True)
    titles = ("tokens", "s", "MiB", "gra-\ndient", "tokens\nx", "time\nx", "of\nideal", "MiB\nx", "of\nideal")
    for title in titles:
        shown.add_column(title, justify="right", no_wrap=True)
    for f in workload.contenders:
        shown.add_row(
            f.name,
            f"{f.num_forwarded:,}",
            f"{median(f.seconds):.3f}",
            f"{f.peak_bytes / 2**20:,.1f}",
            f"{f.gradient_difference:.0e}",
            f"{f.token_ratio:.2f}",
            f"{f.time_ratio:.2f}",
            f"{f.time_of_ideal:.2f}",
            f"{f.memory_ratio:.2f}",
            f"{f.memory_of_ideal:.2f}",
        )
    return shown


def read_json(path: Path) -> UpdateReport:
    """The report that was kept."""
    return TypeAdapter(UpdateReport).validate_json(path.read_bytes())


def write_plot(workloads: Sequence[WorkloadReport], path: Path) -> None:
    """Time and memory over those of the packed update against tokens over its tokens; dashed: in proportion."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    figures = [{f.name: f for f in workload.contenders} for workload in workloads]
    for axes, what in zip(figure.subplots(1, 2), ("time", "memory"), strict=True):
        for name in NAMES:
            if name != PACKED:
                points = sorted((f[name].token_ratio, getattr(f[name], f"{what}_ratio")) for f in figures)
                axes.plot(*zip(*points, strict=True), marker="o", label=name)
        most = max(f.token_ratio for by_name in figures for f in by_name.values())
        axes.plot([1, most], [1, most], color="black", linestyle="dashed", label="in proportion to tokens")
        axes.set_xlabel("tokens forwarded, over packed")
        axes.set_ylabel(f"{what}, over packed")
        axes.legend()
    figure.savefig(path, dpi=150, format="png")

"""What `treepo bench rollout` says: a table, a JSON file, a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from treepo.bench.folder import BenchReport
from treepo.bench.measure import SEQUENTIAL, Figures

JSON_NAME, PLOT_NAME = "rollout.json", "rollout.png"


@dataclass(frozen=True)
class WorkloadReport:
    """Contenders that sampled `num_prompts` x `width` trajectories of up to `response_len` tokens."""

    num_prompts: int
    width: int
    response_len: int
    contenders: tuple[Figures, ...]

    @property
    def title(self) -> str:
        """What was to do."""
        return f"{self.num_prompts} prompts, {self.width} trajectories each, {self.response_len} tokens"


RolloutReport = BenchReport[WorkloadReport]

CAPTION = """tree DxS kK bB: depth D, segments of S tokens, K children of the prompt,
B per fork; aA: forks aligned to blocks of A tokens. tokens/s: decoded (and with
the prompt tokens computed). ideal: over sequential, by tokens decoded (and with
prompt tokens)."""


def table(workload: WorkloadReport) -> Table:
    """One row per contender, within 80 columns."""
    shown = Table(title=workload.title, caption=CAPTION, box=SIMPLE_HEAD, pad_edge=False, padding=0)
    shown.add_column("", no_wrap=True)
    for title in ("traj/s", "tokens/s", "dis-\ntinct", "KV\npeak", "over\nseq.", "ideal", "of the\nideal"):
        shown.add_column(title, justify="right", no_wrap=True)
    for f in workload.contenders:
        shown.add_row(
            f.name,
            f"{f.trajectories_per_s:,.1f}",
            f"{f.decoded_per_s:,.0f} ({f.forwarded_per_s:,.0f})",
            f"{f.distinct_ratio:.0%}",
            "-" if f.counts.kv_peak is None else f"{f.counts.kv_peak:,}",
            f"{f.over_sequential:.2f}",
            f"{f.ideal:.2f} ({f.ideal_with_prompts:.2f})",
            f"{f.achieved:.2f}",
        )
    return shown


def read_json(path: Path) -> RolloutReport:
    """The report that was kept."""
    return TypeAdapter(RolloutReport).validate_json(path.read_bytes())


def write_plot(workloads: Sequence[WorkloadReport], path: Path) -> None:
    """Trajectories per second as bars, one panel per workload; a line where a tree would reach its ideal."""
    from matplotlib.figure import Figure

    num_bars = [len(w.contenders) for w in workloads]
    figure = Figure(figsize=(8, 1.2 * len(workloads) + 0.36 * sum(num_bars)), layout="constrained")
    panels = figure.subplots(len(workloads), 1, squeeze=False, gridspec_kw={"height_ratios": num_bars})[:, 0]
    for axes, workload in zip(panels, workloads, strict=True):
        bars = axes.barh([f.name for f in workload.contenders], [f.trajectories_per_s for f in workload.contenders])
        axes.bar_label(bars, [f" {f.over_sequential:.2f}x" for f in workload.contenders])
        sequential = next(f.trajectories_per_s for f in workload.contenders if f.name == SEQUENTIAL)
        for row, f in enumerate(workload.contenders):
            if f.ideal > 1:
                axes.vlines(sequential * f.ideal, row - 0.4, row + 0.4, colors="black", linestyles="dashed")
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(workload.title, fontsize="medium")
        axes.set_xlabel("trajectories/s (x: over sequential; dashed: ideal by decoded tokens)")
    figure.savefig(path, dpi=150, format="png")

"""What `treepo bench update` says: a table, a JSON file, a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from treepo.bench.folder import BenchReport
from treepo.bench.update.contenders import NAMES, PACKED
from treepo.bench.update.figures import Figures

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

"""What every report holds, and the folder that it is kept in."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import transformers
from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table
from transformers import PreTrainedModel

from treepo.bench.timing import SEQUENTIAL, Figures
from treepo.engine.vllm.start import installed
from treepo.errors import SettingError
from treepo.utils.io import prepare_output_dir

W = TypeVar("W")


@dataclass(frozen=True)
class BenchReport(Generic[W]):
    """One measurement with everything it depends on; W: what is reported of each workload."""

    command: str
    machine: dict[str, str | int]
    model: dict[str, str | int]
    settings: dict[str, Any]
    workloads: tuple[W, ...]


def describe_machine(device: str) -> dict[str, str | int]:
    """Versions and processor, as the libraries name them."""
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    gpu = {"gpu": torch.cuda.get_device_name(device)} if torch.device(device).type == "cuda" else {}
    return machine | installed() | gpu


def describe_model(name: str, model: PreTrainedModel) -> dict[str, str | int]:
    """What was measured."""
    return {"path": name, "type": model.config.model_type, "parameters": model.num_parameters()}


def has_matplotlib() -> bool:
    """Whether plots can be made."""
    return find_spec("matplotlib") is not None


def claim_folder(out: Path, json_name: str) -> None:
    """Make the folder; SettingError if that is impossible, if it holds a report, or if the plot cannot be made."""
    if not has_matplotlib():
        raise SettingError("out", "the plot needs matplotlib, which is not installed (pip install 'treepo[bench]')")
    prepare_output_dir(out, result=json_name)


def write_json(report: object, path: Path) -> None:
    """Keep a report, which is a dataclass."""
    path.write_bytes(TypeAdapter(type(report)).dump_json(report, indent=1) + b"\n")


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

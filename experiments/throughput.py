"""Trajectories and tokens per second over depth x segment length at a fixed product, and over rollouts, both engines.

    OMP_NUM_THREADS=1 python -m experiments.throughput --vllm-python .venv-vllm/bin/python     # --quick for a look

The paper's section 4.1 (figures 4 and 5) at a small scale: answers of a fixed length from a model of random weights, in
segments of which a tree forks in two at every end, against sequential sampling. Each engine is one `treepo bench
rollout` in a process of its own; all variants of a workload take turns in every round, so that ratios hold on a machine
that does other things, while rates do not. Figures go to experiments/results/throughput.json and
docs/plots/throughput.png, the table to docs/evidence.md. --vllm-python: a Python that has vLLM, see docs/engines.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from experiments.paired_stats import markdown, with_tables
from treepo.bench.rollout import SEQUENTIAL
from treepo.report.bench_results import ROLLOUT_NAME

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results" / "throughput.json"
PLOT = ROOT / "docs" / "plots" / "throughput.png"
PAGE = ROOT / "docs" / "evidence.md"
LENGTH = 128
DEPTHS = (2, 4, 8, 16, 32)
WIDTHS = (8, 16, 32)
Row = dict[str, Any]
"""A variant: engine, width, depth (0 for sequential sampling), its rates, and the ratio to sequential sampling."""


def command(engine: str, *, repeats: int, prompts: int, depths: Sequence[int], widths: Sequence[int]) -> list[str]:
    """The benchmark of one engine: all depths at the same length, all widths."""
    settings: dict[str, Any] = {
        "engine.kind": engine,
        "grid.widths": list(widths),
        "grid.depths": list(depths),
        "grid.segment_lens": [LENGTH // depth for depth in depths],
        "grid.response_lens": [LENGTH],
        "prompts.count": prompts,
        "bench.repeats": repeats,
        "bench.plain_batches": [],
    }
    options = [part for name, value in settings.items() for part in (f"--{name}", f"{value}")]
    return ["-m", "treepo", "bench", "rollout", *options]


def measure(python: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What `treepo bench rollout` writes."""
    with TemporaryDirectory() as folder:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path}
        subprocess.run([python, *arguments, "--out", f"{folder}/bench"], check=True, env=environment)
        return json.loads((Path(folder) / "bench" / ROLLOUT_NAME).read_text())


def rows_of(engine: str, report: Mapping[str, Any]) -> list[Row]:
    """A row per variant; over_sequential holds the ratio of each round."""
    rows = []
    for workload in report["workloads"]:
        base = next(v for v in workload["variants"] if v["name"] == SEQUENTIAL)
        for variant in workload["variants"]:
            depth = 0 if variant is base else int(variant["name"].split()[1].partition("x")[0])
            rounds = [own / other for own, other in zip(base["seconds"], variant["seconds"], strict=True)]
            rows.append(
                {
                    "engine": engine,
                    "width": workload["width"],
                    "depth": depth,
                    "trajectories_per_s": variant["trajectories_per_s"],
                    "tokens_per_s": variant["total_per_s"],
                    "decoded_per_s": variant["decoded_per_s"],
                    "tokens_per_decoded": variant["ideal"],
                    "over_sequential": rounds,
                }
            )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: per engine and width, each shape beside sequential sampling."""
    heads = ("engine", "rollouts", "depth x segment", "trajectories/s", "tokens/s", "decoded tokens/s")
    return markdown(
        [*heads, "tokens per decoded one", "speed over sequential (rounds)"],
        [
            [
                row["engine"],
                f"{row['width']}",
                f"{row['depth']} x {LENGTH // row['depth']}" if row["depth"] else SEQUENTIAL,
                f"{row['trajectories_per_s']:,.1f}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['decoded_per_s']:,.0f}",
                f"{row['tokens_per_decoded']:.2f}",
                f"{median(own := row['over_sequential']):.2f} ({min(own):.2f} to {max(own):.2f})",
            ]
            for row in rows
        ],
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Speed over sequential sampling against depth, a line per width, a panel per engine; dashed: decoded tokens."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - figures only

    engines = list(dict.fromkeys(row["engine"] for row in rows))
    figure = Figure(figsize=(5 * len(engines), 3.6), layout="constrained")
    for axes, engine in zip(figure.subplots(1, len(engines), sharey=True, squeeze=False)[0], engines, strict=True):
        for number, width in enumerate(dict.fromkeys(row["width"] for row in rows)):
            own = [row for row in rows if (row["engine"], row["width"]) == (engine, width) and row["depth"]]
            depths = [row["depth"] for row in own]
            axes.plot(
                depths,
                [median(row["over_sequential"]) for row in own],
                "o-",
                color=f"C{number}",
                label=f"{width} rollouts",
            )
            axes.plot(depths, [row["tokens_per_decoded"] for row in own], "--", color=f"C{number}", alpha=0.5)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xlabel(f"depth (x segment = {LENGTH} tokens)")
        axes.set_title(engine)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("trajectories per second over sequential")
    figure.axes[-1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(options: argparse.Namespace) -> None:
    """Measure each engine, print the table, and write results and figure unless it is a quick look."""
    size: dict[str, Any] = {"repeats": 5, "prompts": 8, "depths": DEPTHS, "widths": WIDTHS}
    if options.quick:
        size = {"repeats": 1, "prompts": 2, "depths": DEPTHS[:2], "widths": WIDTHS[:1]}
    pythons = {"embedded": sys.executable} | ({"vllm": options.vllm_python} if options.vllm_python else {})
    reports = {engine: measure(python, command(engine, **size)) for engine, python in pythons.items()}
    rows = [row for engine, report in reports.items() for row in rows_of(engine, report)]
    print(table(rows))
    if options.quick:
        return
    about = {engine: {name: report[name] for name in ("command", "machine")} for engine, report in reports.items()}
    RESULTS.write_text(json.dumps({"about": about, "load": options.load, "rows": rows}, indent=1) + "\n")
    draw(rows, PLOT)
    PAGE.write_text(with_tables(PAGE.read_text(), "throughput", table(rows)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", help="the Python of an environment with vLLM; without it, the embedded engine")
    parser.add_argument("--load", default="", help="what else the machine did, kept with the results")
    parser.add_argument("--quick", action="store_true", help="two shapes once, nothing written")
    main(parser.parse_args())

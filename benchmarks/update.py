"""The updates whose figures the project reports: `treepo bench update` on each, results in results/update-*.

    OMP_NUM_THREADS=2 python benchmarks/update.py                       # about a quarter of an hour on two cores
    python benchmarks/update.py --cases task --bench.repeats 3

Random weights on synthetic trees of 4,000 distinct tokens, and the built-in task's base model on trees that it grew.
Each case replaces its files in results/ and runs in a process of its own; a summary of all files there ends the output.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from treepo.bench.tables import table
from treepo.report.bench_results import UPDATE_NAME, read_update

RESULTS = Path(__file__).parent / "results"

SIZES = {"hidden256": (256, 768), "hidden512": (512, 1536)}
"""Hidden size and that of the feed-forward network, of 4 layers with 8 heads, 4 of them for keys and values."""

CASES = (*SIZES, "task")


MOST_TOKENS = 40_000
"""More than all trajectories of an update have, so that each is one forward and memory shows what sharing saves."""


def options_of(case: str) -> list[str]:
    """Settings of `treepo bench update`."""
    limit = ["--bench.max_tokens_per_micro_batch", str(MOST_TOKENS)]
    if case == "task":
        return [*limit, "--bench.trees", "task"]
    hidden_size, ffn_size = SIZES[case]
    sizes = {"hidden_size": hidden_size, "ffn_size": ffn_size, "num_layers": 4, "num_heads": 8, "num_kv_heads": 4}
    return [*limit, *(option for key, value in sizes.items() for option in (f"--architecture.{key}", str(value)))]


def main(cases: list[str], extra: list[str]) -> None:
    """Measure every case, then print what is in results/."""
    RESULTS.mkdir(exist_ok=True)
    for case in cases:
        with TemporaryDirectory() as folder:
            command = ["-m", "treepo", "bench", "update", *options_of(case), *extra, "--out", "."]
            subprocess.run([sys.executable, *command], check=True, cwd=folder)
            (RESULTS / f"update-{case}.json").write_bytes((Path(folder) / UPDATE_NAME).read_bytes())
    console = Console()
    for path in sorted(RESULTS.glob("*update-*.json")):
        console.rule(path.stem)
        for workload in read_update(path).workloads:
            console.print(table(workload))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    known, others = parser.parse_known_args()
    main(known.cases, others)

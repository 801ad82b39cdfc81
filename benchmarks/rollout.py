"""The trees and models whose figures the project reports: `treepo bench rollout` on each, results in results/.

    OMP_NUM_THREADS=2 python benchmarks/rollout.py                      # about half an hour on two cores
    python benchmarks/rollout.py --models 0.8M --trees 16x6x32 --bench.repeats 3

Random weights, prompts of 40-70 random tokens, answers of fixed length: speed does not depend on what is said. Each
pair replaces its files in results/ and runs in a process of its own; a summary of all files there ends the output.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from treepo.bench.tables import table
from treepo.report.bench_results import ROLLOUT_NAME, read_rollout

RESULTS = Path(__file__).parent / "results"

MODELS = {
    "0.8M": {"hidden_size": 128, "ffn_size": 384, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2},
    "5M": {"hidden_size": 320, "ffn_size": 704, "num_layers": 5, "num_heads": 10, "num_kv_heads": 5},
}
"""The built-in task's model, and one of the same kind with 4.9M parameters."""

TREES = {"16x6x32": (16, 6, 32, 32, 256), "64x14x16": (64, 14, 16, 8, 256), "16x6x32-batch64": (16, 6, 32, 16, 64)}
"""Width, depth, segment length, prompts, and the batch of the engine and of the plain loop."""


def options_of(model: str, tree: str) -> list[str]:
    """Settings of `treepo bench rollout`."""
    width, depth, segment_len, num_prompts, batch = TREES[tree]
    grid = {"widths": width, "depths": depth, "segment_lens": segment_len}
    options = [option for key, value in MODELS[model].items() for option in (f"--architecture.{key}", str(value))]
    options += [option for key, value in grid.items() for option in (f"--grid.{key}", f"[{value}]")]
    options += ["--engine.max_num_seqs", str(batch), "--bench.plain_batches", f"[{batch}]"]
    return [*options, "--prompts.count", str(num_prompts)]


def main(models: list[str], trees: list[str], extra: list[str]) -> None:
    """Measure every pair, then print what is in results/."""
    RESULTS.mkdir(exist_ok=True)
    for model in models:
        for tree in trees:
            with TemporaryDirectory() as folder:
                command = ["-m", "treepo", "bench", "rollout", *options_of(model, tree), *extra, "--out", "."]
                subprocess.run([sys.executable, *command], check=True, cwd=folder)
                (RESULTS / f"rollout-{model}-{tree}.json").write_bytes((Path(folder) / ROLLOUT_NAME).read_bytes())
    console = Console()
    for path in sorted([*RESULTS.glob("*rollout-*.json"), *RESULTS.glob("vllm-*.json")]):
        for workload in read_rollout(path).workloads:
            console.rule(path.stem)
            console.print(table(workload))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--trees", nargs="+", choices=TREES, default=list(TREES))
    known, others = parser.parse_known_args()
    main(known.models, known.trees, others)

"""Rollouts of Qwen2.5's shapes with random weights on one GPU: 64 problems x 16 trajectories, trees against sequential
sampling and plain transformers.

    python benchmarks/gpu_rollout.py                    # both shapes, bfloat16; results/gpu-rollout-*.json
    python benchmarks/gpu_rollout.py --models 1.5B --bench.repeats 3

Without a GPU it says so and measures nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gpu_checks.checks import SHAPES
from transformers import Qwen2Config, Qwen2ForCausalLM

from treepo.report.bench_results import ROLLOUT_NAME
from treepo.tasks.chain_sums import make_chain_tokenizer

RESULTS = Path(__file__).parent / "results"

BATCH = 1024
"""Requests that decode at a time: 64 problems x 16 trajectories."""


def main(models: list[str], extra: list[str]) -> None:
    """Measure each shape in a process of its own, and keep what it took."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return
    RESULTS.mkdir(exist_ok=True)
    for name in models:
        with TemporaryDirectory() as folder:
            save(name, Path(folder) / "model")
            command = ["-m", "treepo", "bench", "rollout", str(Path(folder) / "model"), *options(), *extra]
            subprocess.run([sys.executable, *command, "--out", str(Path(folder) / "out")], check=True)
            (RESULTS / f"gpu-rollout-{name}.json").write_bytes((Path(folder) / "out" / ROLLOUT_NAME).read_bytes())


def options(prompt_len: int = 256, depth: int = 14) -> list[str]:
    """Settings of `treepo bench rollout`: prompts of a length, and trees of so many segments of 64 tokens."""
    grid = {"widths": [16], "depths": [depth], "segment_lens": [64]}
    prompts = {"count": BATCH // 16, "min_len": prompt_len, "max_len": prompt_len}
    chosen = [f"--grid.{key}={value}" for key, value in grid.items()]
    chosen += [f"--prompts.{key}={value}" for key, value in prompts.items()]
    return [*chosen, "--model.device=cuda", "--model.dtype=bfloat16", f"--engine.max_num_seqs={BATCH}"]


def save(name: str, folder: Path) -> None:
    """Random weights of a shape, and a tokenizer that fits it."""
    config = Qwen2Config(**SHAPES[name], rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    with torch.device("cuda"):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    make_chain_tokenizer().save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    chosen, others = parser.parse_known_args()
    main(chosen.models, others)

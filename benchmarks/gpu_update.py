"""One optimiser update of a model of Qwen2.5-1.5B's shape on one GPU: random weights, bfloat16, gradient checkpointing,
trees of 8,000 distinct tokens, packed against every trajectory on its own.

    python benchmarks/gpu_update.py                     # results/gpu-update-1.5B.json
    python benchmarks/gpu_update.py --bench.repeats 3
    python benchmarks/gpu_update.py --tiny              # a model of tiny sizes on the CPU: does this script run?

Without a GPU it says so and measures nothing. What --tiny measures is shown and not kept.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu_checks.checks import SHAPES
from transformers import Qwen2Config, Qwen2ForCausalLM

from treepo.report.bench_results import UPDATE_NAME
from treepo.tasks.chain_sums import make_chain_tokenizer

RESULTS = Path(__file__).parent / "results"

SHAPE = SHAPES["1.5B"] | {"tie_word_embeddings": True, "rope_theta": 1e6}

TINY_SHAPE = SHAPE | {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
}

DISTINCT, TINY_DISTINCT = 8000, 400


def main(tiny: bool, extra: list[str]) -> None:
    """Measure, and keep the results."""
    if not (tiny or torch.cuda.is_available()):
        print("no GPU here: nothing is measured")
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        save(TINY_SHAPE if tiny else SHAPE, "cpu" if tiny else "cuda", folder / "model")
        command = ["-m", "treepo", "bench", "update", str(folder / "model"), *options(tiny), *extra]
        subprocess.run([sys.executable, *command, "--out", str(folder / "out")], check=True)
        if not tiny:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "gpu-update-1.5B.json").write_bytes((folder / "out" / UPDATE_NAME).read_bytes())


def options(tiny: bool) -> list[str]:
    """Settings of `treepo bench update`."""
    distinct = TINY_DISTINCT if tiny else DISTINCT
    device = [] if tiny else ["--model.device=cuda"]
    return [
        *device,
        "--model.dtype=bfloat16",
        f"--synthetic.distinct={distinct}",
        "--bench.gradient_checkpointing=true",
    ]


def save(shape: dict[str, Any], device: str, folder: Path) -> None:
    """Random weights of a shape, and a tokenizer that fits it."""
    with torch.device(device):
        model = Qwen2ForCausalLM._from_config(Qwen2Config(**shape), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    make_chain_tokenizer().save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    chosen, others = parser.parse_known_args()
    main(chosen.tiny, others)

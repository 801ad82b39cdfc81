"""Rollouts of Qwen2.5's shapes with random weights on one GPU: 64 problems x 16 trajectories, trees against sequential
sampling and plain transformers, and the share of the GPU's memory bandwidth that decoding reaches.

    python benchmarks/gpu_rollout.py                    # both shapes, bfloat16; results/gpu-rollout-*.json
    python benchmarks/gpu_rollout.py --models 1.5B --bench.repeats 3

Without a GPU it says so and measures nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from treepo.report.bench_results import ROLLOUT_NAME, read_rollout
from treepo.tasks.chain_sums import make_chain_tokenizer

RESULTS = Path(__file__).parent / "results"

SHAPES: dict[str, dict[str, Any]] = {
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
}
KV_HEADS = {"1.5B": 2, "7B": 4}
VOCABULARY = {"1.5B": 151_936, "7B": 152_064}
"""Qwen2.5's shapes, from its published configurations."""

DEPTH, SEGMENT_LEN, PROMPT_LEN = 14, 64, 256
BATCH = 1024


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
            report = read_rollout(Path(folder) / "out" / ROLLOUT_NAME)
            kept = json.loads((Path(folder) / "out" / ROLLOUT_NAME).read_text())
        size = {"weights": 2 * int(report.model["parameters"]), "token": bytes_per_token(name)}
        kept["bandwidth"] = {
            "measured_bytes_per_s": (peak := copy_bandwidth()),
            "share": {f.name: traffic(f.counts, size) / median(f.seconds) / peak for f in report.workloads[0].variants},
        }
        (RESULTS / f"gpu-rollout-{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(name, json.dumps(kept["bandwidth"], indent=1))


def options() -> list[str]:
    """Settings of `treepo bench rollout`."""
    grid = {"widths": [16], "depths": [DEPTH], "segment_lens": [SEGMENT_LEN]}
    prompts = {"count": 64, "min_len": PROMPT_LEN, "max_len": PROMPT_LEN}
    chosen = [f"--grid.{key}={value}" for key, value in grid.items()]
    chosen += [f"--prompts.{key}={value}" for key, value in prompts.items()]
    return [*chosen, "--model.device=cuda", "--model.dtype=bfloat16", f"--engine.max_num_seqs={BATCH}"]


def save(name: str, folder: Path) -> None:
    """Random weights of a shape, and a tokenizer that fits it."""
    rope = {"rope_type": "default", "rope_theta": 1e6}
    config = Qwen2Config(
        vocab_size=VOCABULARY[name], num_key_value_heads=KV_HEADS[name], rope_parameters=rope, **SHAPES[name]
    )
    with torch.device("cuda"):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    make_chain_tokenizer().save_pretrained(folder)


def bytes_per_token(name: str) -> int:
    """Of keys and values in bfloat16."""
    head_size = SHAPES[name]["hidden_size"] // SHAPES[name]["num_attention_heads"]
    return 2 * 2 * SHAPES[name]["num_hidden_layers"] * KV_HEADS[name] * head_size


def traffic(counts, size: dict[str, int]) -> float:
    """Bytes that decoding reads at least: the weights once per full batch, and each token's context."""
    context = PROMPT_LEN + DEPTH * SEGMENT_LEN / 2
    return counts.num_decoded / BATCH * size["weights"] + counts.num_decoded * context * size["token"]


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of the fastest of ten copies of a gigabyte."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * source.numel() / min(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    chosen, others = parser.parse_known_args()
    main(chosen.models, others)

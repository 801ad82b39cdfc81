"""A training step of a real language model by TRL's GRPOTrainer and by treepo, as a star and as a tree, on the CPU.

    python benchmarks/pretrained_step.py MODEL_FOLDER              # needs pip install 'treepo[trl]'; half an hour

Alike for all: 8 questions through the chat template, 8 answers each of at most 64 tokens, one update per step, AdamW,
temperature 1, no KL term, no gradient checkpointing, threads, and a reward that differs within every group, so that all
trajectories are trained on. TRL forwards --trl-batch sequences at once. Contenders take turns in each of --rounds, each
time in a process of its own with a step that is not measured before --steps that are. bfloat16 is autocast over float32
weights, in treepo also the engine's products. Peak memory is the process's. Medians over all measured
steps. Contenders that are not asked for stay in the results as they are.
"""

# ruff: noqa: PLC0415 - TRL is imported where it is measured
# pyright: reportMissingImports=false

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

PROMPTS, WIDTH, TOKENS = 8, 8, 64
WARMUP = 1
AUTOCAST = {"float32": "none", "bfloat16": "bfloat16"}
CONTENDERS = [f"{name}, {dtype}" for dtype in ("float32", "bfloat16") for name in ("TRL", "star", "tree")]


def rows() -> list[dict[str, Any]]:
    """Questions of two steps."""
    rng, found = random.Random(0), []
    for _ in range(256):
        a, b, c = (rng.randint(2, 60) for _ in range(3))
        text = f"Tom has {a} apples, buys {b} more and gives {c} to Ann. How many apples has he? Think step by step."
        found.append({"prompt": [{"role": "user", "content": text}]})
    return found


def reward(completions: list[Any], **_: Any) -> list[float]:
    """A number between 0 and 1 that only the text decides."""
    return [int(hashlib.sha256(str(c).encode()).hexdigest()[:8], 16) / 2**32 for c in completions]


def run_trl(model: str, dtype: str, num_steps: int, batch: int, folder: str) -> list[dict[str, float]]:
    """Steps of TRL."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    steps: list[dict[str, float]] = []

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            begin = perf_counter()
            outputs = super()._generate_and_score_completions(inputs)
            self.grow_s = perf_counter() - begin
            self.tokens = int(outputs["completion_mask"].sum())
            return outputs

    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=PROMPTS * WIDTH // batch,
        num_generations=WIDTH,
        max_completion_length=TOKENS,
        max_steps=num_steps,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=dtype == "bfloat16",
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1000,
    )
    trainer = Timed(model, reward, args=config, train_dataset=Dataset.from_list(rows()))
    begin = perf_counter()

    from transformers import TrainerCallback

    class Ends(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            nonlocal begin
            end = perf_counter()
            update = end - begin - trainer.grow_s
            steps.append(
                {"step_s": end - begin, "grow_s": trainer.grow_s, "update_s": update, "tokens": trainer.tokens}
            )
            begin = end

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            nonlocal begin
            begin = perf_counter()

    trainer.add_callback(Ends())
    trainer.train()
    return steps


def run_treepo(name: str, model: str, dtype: str, num_steps: int, folder: str) -> list[dict[str, float]]:
    """Steps of treepo, without TRL."""
    import treepo

    star = {"tree": {"width": WIDTH, "depth": 1, "segment_len": TOKENS}, "credit": treepo.credit.GRPO()}
    star |= {"initial_fork": {"low": WIDTH, "high": WIDTH}}
    tree = {"tree": {"width": WIDTH, "depth": 4, "segment_len": TOKENS // 4}, "initial_fork": {"low": 2, "high": 2}}
    config = treepo.TreePOConfig(
        output_dir=Path(folder) / "run",
        train={"prompts_per_step": PROMPTS, "num_mini_batches": 1, "autocast": AUTOCAST[dtype], "num_steps": num_steps}
        | {"save_trees_every": 0},
        eval={"num_problems": 0},
        learning_rate=1e-6,
        **(star if name == "star" else tree),  # pyright: ignore[reportArgumentType]
    )
    with treepo.TreePOTrainer(model, reward_funcs=reward, train_dataset=rows(), config=config) as trainer:
        found = [step.metrics for step in trainer.steps()]
    keys = {"step_s": "time/step_s", "grow_s": "time/grow_s", "update_s": "time/update_s", "tokens": "tokens/total"}
    keys |= {"decoded": "tokens/decoded", "forwarded": "tokens/forwarded"}
    return [{key: float(metrics[metric]) for key, metric in keys.items()} for metrics in found]


def run_one(contender: str, model: str, num_steps: int, batch: int) -> dict[str, Any]:
    """The measured steps and the peak memory of this process."""
    name, dtype = contender.split(", ")
    with TemporaryDirectory() as folder:
        if name == "TRL":
            steps = run_trl(model, dtype, WARMUP + num_steps, batch, folder)
        else:
            steps = run_treepo(name, model, dtype, WARMUP + num_steps, folder)
    return {"steps": steps[WARMUP:], "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main(given: argparse.Namespace) -> None:
    """Run all that is asked for, print a table, write the figures."""
    runs = json.loads(given.out.read_text())["runs"] if given.out.exists() else {}
    runs = {name: own for name, own in runs.items() if name not in given.contenders}
    for _ in range(given.rounds):
        for name in given.contenders:
            options = ["--one", name, "--steps", str(given.steps), "--trl-batch", str(given.trl_batch)]
            command = [sys.executable, __file__, given.model, *options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(name, runs[name][-1], flush=True)
            write(runs, given)
    medians = {name: medians_of(runs[name]) for name in CONTENDERS if name in runs}
    print("| | step s | times TRL | grow s | update s | tokens | peak GiB |\n" + "|---" * 7 + "|")
    for name, own in medians.items():
        ratio = medians[f"TRL, {name.split(', ')[1]}"]["step_s"] / own["step_s"]
        cells = [f"{own['step_s']:.1f}", f"{ratio:.2f}", f"{own['grow_s']:.1f}", f"{own['update_s']:.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {own['tokens']:.0f} | {own['peak_gib']:.1f} |")


def medians_of(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Over the measured steps of all runs of a contender."""
    steps = [step for run in runs for step in run["steps"]]
    found = {key: median(step[key] for step in steps) for key in steps[0]}
    return found | {"peak_gib": median(run["peak_gib"] for run in runs)}


def write(runs: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> None:
    """Write the results so far."""
    import trl

    from treepo.bench.common import describe_machine

    settings = {"prompts": PROMPTS, "width": WIDTH, "tokens": TOKENS, "steps": given.steps, "rounds": given.rounds}
    settings |= {"trl_batch": given.trl_batch, "model": Path(given.model).name}
    medians = {name: medians_of(own) for name, own in runs.items()}
    about = describe_machine("cpu") | {"trl": trl.__version__}
    results = {"machine": about, "settings": settings, "medians": medians, "runs": runs}
    given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trl-batch", type=int, default=16, help="16 was faster than 64")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pretrained-step.json")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if options.one:
        print(json.dumps(run_one(options.one, options.model, options.steps, options.trl_batch)))
    else:
        main(options)

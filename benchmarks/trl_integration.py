"""TRL's GRPOTrainer, and ours inside it, side by side on the CPU: seconds, forwarded tokens and gradient norms.

    python benchmarks/trl_integration.py                    # the built-in task's model
    python benchmarks/trl_integration.py --model FOLDER     # another one, on sums as questions

Needs `pip install 'treepo[trl]'`. Variants: TRL; "packed", PackedGRPOTrainer, whose samples are TRL's for the same
seed, so that its gradient norms must be, too; "star", TreeGRPOTrainer with a tree that forks at the prompt alone and
GRPO's advantages; "trees", with its defaults. All begin from the same weights, take turns in each of --rounds, and
take one step that is not measured before --steps that are. Without gradient checkpointing, which none needs here.
Per step: generate_s, sampling, rewards and advantages; update_s, forward and backward; forwarded, tokens of the
forwards, with padding where there is any; medians over all measured steps.
"""

# pyright: reportMissingImports=false

import argparse
import json
import os
import random
import re
import warnings
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOTrainer

from treepo.bench.common import describe_machine
from treepo.credit import GRPO
from treepo.grow import InitialFork, StopRules
from treepo.integrations.trl import PackedGRPOTrainer, TreeGRPOConfig, TreeGRPOTrainer
from treepo.run.model_path import find_base_model
from treepo.tasks.chain_sums import draw_chain

STAR = {
    "tree_depth": 1,
    "initial_fork": InitialFork(1024, 1024),
    "estimator": GRPO(eps=1e-4),
    "stopping": StopRules(answer="never", repetition="never"),
}

VARIANTS: dict[str, tuple[type[GRPOTrainer], dict[str, Any]]] = {
    "TRL": (GRPOTrainer, {}),
    "packed": (PackedGRPOTrainer, {}),
    "star": (TreeGRPOTrainer, STAR),
    "trees": (TreeGRPOTrainer, {}),
}

NUM_WARMUP = 1


def timed(kind: type[GRPOTrainer]) -> Any:
    """The class with its steps measured."""

    class Timed(kind):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.steps: list[dict[str, float]] = []
            self.num_rows = 0
            super().__init__(*args, **kwargs)

        def _get_per_token_logps_and_entropies(self, model: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
            self.num_rows += input_ids.numel()
            return super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)

        def _prepare_inputs(self, batch: Any) -> Any:
            start = perf_counter()
            inputs = super()._prepare_inputs(batch)
            self.generate_s = perf_counter() - start
            return inputs

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            before, start = getattr(self, "num_forwarded", self.num_rows), perf_counter()
            loss = super().training_step(*args, **kwargs)
            seconds = perf_counter() - start
            forwarded = getattr(self, "num_forwarded", self.num_rows) - before
            times = {"generate_s": self.generate_s, "update_s": seconds - self.generate_s, "step_s": seconds}
            self.steps.append(times | {"forwarded": forwarded})
            return loss

    return Timed


def as_rows(tokenizer: Any, is_own: bool) -> list[dict[str, Any]]:
    """Sums, as the built-in task writes them or as questions."""
    chains = [draw_chain(random.Random(seed)) for seed in range(256)]
    if is_own:
        return [{"prompt": f"{tokenizer.bos_token}{c.prompt}", "answer": str(c.value)} for c in chains]
    question = "What is {}? Think step by step, and put the result in \\boxed{{}}."
    texts = [re.sub("[a-h]", " ", c.prompt.rstrip(":")) for c in chains]
    return [
        {"prompt": [{"role": "user", "content": question.format(text)}], "answer": str(c.value)}
        for text, c in zip(texts, chains, strict=True)
    ]


def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """1 for the right box, and a little for letters, so that no group is without a signal."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    boxes = [re.findall(r"boxed\{(-?\d+)\}", text)[-1:] for text in texts]
    return [(box == [known]) + len(set(t)) / 1000 for box, known, t in zip(boxes, answer, texts, strict=True)]


def run(name: str, args: argparse.Namespace, model: str, seed: int, folder: str) -> tuple[list[dict[str, float]], Any]:
    """The measured steps of a variant, and the gradient norm of each."""
    kind, own = VARIANTS[name]
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = TreeGRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=args.prompts * args.width,
        num_generations=args.width,
        max_completion_length=args.tokens,
        max_steps=NUM_WARMUP + args.steps,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        logging_steps=1,
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **own,
    )
    rows = Dataset.from_list(as_rows(tokenizer, not args.model))
    trainer = timed(kind)(model, reward, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    norms = [h["grad_norm"] for h in trainer.state.log_history if "grad_norm" in h]
    return trainer.steps[NUM_WARMUP:], norms[NUM_WARMUP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a folder; the built-in task's model if not given")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the results")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    model = args.model or str(find_base_model(lambda *_: None))
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    norms: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    for seed in range(args.rounds):
        for name in VARIANTS:
            with TemporaryDirectory() as folder:
                found, own = run(name, args, model, seed, folder)
            steps[name] += found
            norms[name].append(own)
    medians = {name: {key: median(step[key] for step in own) for key in own[0]} for name, own in steps.items()}
    for name, own in medians.items():
        ratio = medians["TRL"]["step_s"] / own["step_s"]
        times = ", ".join(f"{key} {own[key]:.3f}" for key in ("generate_s", "update_s", "step_s"))
        first = ", ".join(f"{norm:.4f}" for norm in norms[name][0])
        print(f"{name:7} {times} ({ratio:.2f} x), forwarded {own['forwarded']:.0f}, gradient norms {first}")
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "model")}
    settings |= {"model": Path(model).name if args.model else "built-in task", "threads": torch.get_num_threads()}
    if args.out:
        about = describe_machine("cpu") | {"trl": trl.__version__}
        found = {name: own | {"grad_norms": norms[name]} for name, own in medians.items()}
        args.out.write_text(json.dumps({"machine": about, "settings": settings, "medians": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

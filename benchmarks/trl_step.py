"""Whole training steps of treepo and of TRL's GRPOTrainer on the built-in task, side by side on the CPU.

    python benchmarks/trl_step.py --trl-python VENV/bin/python          # about a quarter of an hour on two cores

VENV is a virtual environment with torch 2.13.0 (the same wheel as here) and then trl, as in

    python3 -m venv VENV && VENV/bin/pip install torch==2.13.0 && VENV/bin/pip install trl torch==2.13.0

Alike for all: base model, tokenizer, prompts (as token ids), trajectories per prompt, longest answer, reward, updates
per step, AdamW and its settings at a constant rate, clipping, no KL term, temperature, float32, threads. What differs:

- TRL samples with transformers' `generate`; how many sequences it forwards at once in the update is the fastest of
  --trl-batches in trial runs before the measurement. Tried by hand, continuous batching made its sampling
  several times slower, torch.compile compiled anew for half a minute every few steps, and neither a static cache nor
  eager attention helped. treepo runs with the defaults of its recipes.
- TRL computes the log-probabilities of what it sampled anew, since the second update of a step needs those from before
  the first; treepo's engine hands them out with the tokens.
- treepo leaves out of the update the problems whose rewards all agree; TRL trains on all. The contender "GRPO, all"
  trains on them too, see treepo_worker.py.

Every contender runs in a process of its own, from the base model's weights, and takes two steps that are not measured,
then --steps that are; contenders take turns in each of --rounds, and each round has its own seed. Medians over all
measured steps are compared. Counts, means per step: trajectories; trained, those that the updates were made of;
without_signal, those in groups whose rewards agree; mean_len, max_len, tokens of trajectories; decoded, tokens computed
to sample them (TRL goes on with answers that have ended until the longest has); forwarded, tokens that the updates
forwarded (in TRL with padding, and without the pass for the log-probabilities).
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

# For treepo and TRL alike. Threads that spin while they wait hold up whoever else has work.
THREADS = {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"}
for variable, value in THREADS.items():
    os.environ.setdefault(variable, value)

from rich.console import Console
from transformers import AutoTokenizer
from trl_report import Step, figures, table

from treepo.bench.common import describe_machine
from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.schema import Config
from treepo.learn.losses import PPO
from treepo.report.terminal import Terminal
from treepo.run.model_path import find_base_model
from treepo.tasks.chain_sums import ChainSums
from treepo.utils import ProgressCallback

HERE = Path(__file__).parent
TRL = "TRL GRPO"
TREEPO = {
    "treepo GRPO, all": ("grpo", ["--train-on-all"]),
    "treepo GRPO": ("grpo", []),
    "treepo TreePO": ("treepo", []),
}
"""Name -> recipe, options of treepo_worker.py."""

NUM_WARMUP = 2
TRIAL_STEPS = 3


@dataclass(frozen=True)
class Bench:
    """What all runs have in common; trl_machine is known once TRL has run."""

    trl_python: str
    model: str
    num_steps: int
    folder: Path
    trl_machine: dict[str, str | int] = field(default_factory=dict)

    def config(self, recipe: str, width: int, seed: int, num_steps: int) -> Config:
        """The settings of a treepo run; the rate is constant, as TRL's warm-up starts at another rate than treepo's."""
        layer = {
            "tree": {"width": width},
            "optim": {"warmup_steps": 0},
            "train": {"seed": seed, "num_steps": num_steps},
        }
        forks = {"initial_fork": {"low": width, "high": width}} if recipe == "grpo" else {}
        return resolve(read_recipe(HERE.parent / "recipes" / f"chain_sums_{recipe}.toml"), layer, forks)

    def run(self, contender: str, width: int, seed: int, trl_batch: int) -> list[Step]:
        """The measured steps of a contender."""
        if contender == TRL:
            return self.run_trl(width, seed, trl_batch, self.num_steps)
        recipe, options = TREEPO[contender]
        path = self.folder / "recipe.toml"
        path.write_text(to_toml(self.config(recipe, width, seed, NUM_WARMUP + self.num_steps)))
        return run_worker([sys.executable, str(HERE / "treepo_worker.py"), str(path), *options])[NUM_WARMUP:]

    def run_trl(self, width: int, seed: int, batch: int, num_steps: int) -> list[Step]:
        """The measured steps of TRL."""
        config = self.config("grpo", width, seed, NUM_WARMUP + num_steps)
        path = self.folder / "work.json"
        path.write_text(json.dumps(trl_work(config, self.model, batch)))
        about, *steps = run_worker([self.trl_python, str(HERE / "trl_worker.py"), self.model, str(path)])
        self.trl_machine.update(about)
        return steps[NUM_WARMUP:]


def trl_work(config: Config, model: str, batch: int) -> dict[str, Any]:
    """What TRL is told to do: what treepo would do with this config, `batch` sequences per forward."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    task = ChainSums(tokenizer, config.train.seed)
    problems = [task.training_problems(k, config.train.prompts_per_step) for k in range(config.train.num_steps)]
    optim = dataclasses.asdict(config.optim)
    assert isinstance(config.loss, PPO), "what TRL has, too"
    return {
        "steps": [
            [
                {"prompt": tokenizer.bos_token + p.prompt, "prompt_ids": p.prompt_ids, "answer": p.ground_truth}
                for p in step
            ]
            for step in problems
        ],
        "seed": config.train.seed,
        "width": config.tree.width,
        "response_len": config.tree.max_response_tokens,
        "num_updates": config.train.num_mini_batches,
        "batch": batch,
        "temperature": config.engine.temperature,
        "clip_low": config.loss.clip_low,
        "clip_high": config.loss.clip_high,
        **{name: optim[name] for name in ("lr", "betas", "weight_decay", "max_grad_norm")},
    }


def run_worker(command: list[str]) -> list[dict[str, Any]]:
    """The objects that a worker prints, one a line."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr[-4000:]}\nfailed: {shlex.join(command)}")
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass(frozen=True)
class Trial:
    """TRL with so many sequences per forward."""

    width: int
    batch: int
    gradient_accumulation_steps: int
    seconds: list[float]


def try_batches(bench: Bench, width: int, batches: Iterable[int], progress: "Progress") -> list[Trial]:
    """One trial for each batch size that an update can be made of."""
    config = bench.config("grpo", width, 0, TRIAL_STEPS)
    per_update = config.train.prompts_per_step * width // config.train.num_mini_batches
    trials = []
    for batch in batches:
        if per_update % batch == 0:
            steps = bench.run_trl(width, 0, batch, TRIAL_STEPS)
            trials.append(Trial(width, batch, per_update // batch, [s["seconds"] for s in steps]))
        progress.advance()
    return trials


@dataclass
class Progress:
    """Counts processes that have ended."""

    report: ProgressCallback
    total: int
    done: int = 0

    def advance(self) -> None:
        self.done += 1
        self.report(self.done, self.total, self.done / self.total)


def measure(bench: Bench, widths: list[int], num_rounds: int, batches: list[int], progress: Progress) -> dict[str, Any]:
    """Everything that is measured, as results hold it."""
    trials = {width: try_batches(bench, width, batches, progress) for width in widths}
    fastest = {width: min(tried, key=lambda trial: median(trial.seconds)) for width, tried in trials.items()}
    rounds: dict[tuple[int, str], list[list[Step]]] = {key: [] for key in product(widths, [TRL, *TREEPO])}
    for seed in range(num_rounds):
        for (width, name), measured in rounds.items():
            measured.append(bench.run(name, width, seed, fastest[width].batch))
            progress.advance()
    return {
        "trl_trials": [dataclasses.asdict(trial) for tried in trials.values() for trial in tried],
        "workloads": [
            {
                "width": width,
                "trl_batch": fastest[width].batch,
                "trl_gradient_accumulation_steps": fastest[width].gradient_accumulation_steps,
                "contenders": [figures(n, rounds[width, n], rounds[width, TRL]) for n in (TRL, *TREEPO)],
            }
            for width in widths
        ],
    }


def common_settings(bench: Bench) -> dict[str, Any]:
    """What is the same for all contenders and widths."""
    work = trl_work(bench.config("grpo", 1, 0, 1), bench.model, 1)
    problems = {"problems": len(work["steps"][0])}
    return problems | {name: work[name] for name in work if name not in ("steps", "seed", "width", "batch")}


def main(options: argparse.Namespace) -> None:
    """Measure, print a table per width, keep all figures."""
    console = Console()
    model = find_base_model(lambda *_: None)
    command = [("VENV/bin/python" if argument == options.trl_python else argument) for argument in sys.argv[1:]]
    with TemporaryDirectory() as folder, Terminal(console).progress("measuring") as report:
        bench = Bench(options.trl_python, model, options.steps, Path(folder))
        num_runs = len(options.widths) * (len(options.trl_batches) + options.rounds * (1 + len(TREEPO)))
        measured = measure(bench, options.widths, options.rounds, options.trl_batches, Progress(report, num_runs))
    results = {
        "command": shlex.join(["python", "benchmarks/trl_step.py", *command]),
        "machine": describe_machine("cpu") | bench.trl_machine | {name: os.environ[name] for name in THREADS},
        "settings": {"warmup": NUM_WARMUP, "steps": options.steps, "rounds": options.rounds} | common_settings(bench),
        **measured,
    }
    for workload in measured["workloads"]:
        title = f"{results['settings']['problems']} problems, {workload['width']} trajectories each"
        console.print(table(title, workload["contenders"]))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1, default=dataclasses.asdict) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="the interpreter of TRL's virtual environment")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16], help="trajectories per problem")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each contender")
    parser.add_argument(
        "--trl-batches", type=int, nargs="+", default=[256, 128, 64, 32, 16], help="sequences per forward to try"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "trl-step.json")
    main(parser.parse_args())

"""Whole runs of `treepo train`: a step with adapters, a run that is killed and resumed, one that learns."""

import io
import json
import os
import signal
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console

from gpu_checks.checks import Checks
from treepo.config.python import TreePOConfig
from treepo.tasks.base_model import find_or_make_base_model
from treepo.tasks.chain_sums import make_chain_tokenizer
from treepo.trainer import TrainerCallback, TreePOTrainer
from treepo.utils.io import default_cache_folder

CONTEXT = get_context("forkserver")
# Children are forked from a process that has imported everything and has not touched the GPU.
CONTEXT.set_forkserver_preload(["treepo.run.train", "treepo.run.resume"])

KILLED_AFTER = 1
"""The step after which the run is killed; its checkpoint is written."""

MIN_GAIN = 0.05
"""What the run that learns gains at least in held-out accuracy; on the CPU it gains 0.13 to 0.18 in 20 steps."""


class Kill(TrainerCallback):
    """Ends the process after a step as if power failed."""

    def on_step(self, trainer: TreePOTrainer, step: Any) -> None:
        if step.step == KILLED_AFTER + 1:
            os.kill(os.getpid(), signal.SIGKILL)


def share_of_digits(completions: list[str], **_: Any) -> list[float]:
    """A reward that random weights, too, get now and then."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


def settings(checks: Checks, num_steps: int, **sections: Any) -> dict[str, Any]:
    """Of a run of the built-in task, small on the CPU."""
    small: dict[str, Any] = {"tree": {"width": 4, "depth": 2, "segment_len": 8}, "prompts_per_step": 4}
    common = {
        "max_steps": num_steps,
        "model": {"device": str(checks.device)},
        "eval": {"num_problems": 4 if checks.is_tiny else 256},
        "checkpoint": {"every": 1},
        "report_to": "none",
    }
    return (small if checks.is_tiny else {}) | common | sections


def base_model(checks: Checks, folder: Path) -> Path:
    """The built-in task's base model; random weights with its tokenizer on the CPU."""
    if not checks.is_tiny:
        return find_or_make_base_model(default_cache_folder(), seed=0)
    checks.model(torch.float32, vocab_size=32, max_position_embeddings=256).save_pretrained(folder)
    make_chain_tokenizer().save_pretrained(folder)
    return folder


def train(folder: Path, model: Path, chosen: dict[str, Any], *, resume: bool = False, killed: bool = False) -> None:
    """A run, in this process."""
    with trainer_of(folder, model, chosen, callbacks=[Kill()] if killed else []) as trainer:
        trainer.train(resume=resume)


def trainer_of(folder: Path, model: Path, chosen: dict[str, Any], **options: Any) -> TreePOTrainer:
    """A trainer that shows nothing."""
    config, console = TreePOConfig(output_dir=folder, **chosen), Console(file=io.StringIO())
    rewards = share_of_digits if config.model["device"] == "cpu" else ()
    return TreePOTrainer(model, rewards, config=config, console=console, **options)


def exit_code(*args: Any, **options: Any) -> int | None:
    """Of a run in a process of its own."""
    child = CONTEXT.Process(target=partial(train, *args, **options))
    child.start()
    child.join()
    return child.exitcode


def resume(checks: Checks) -> None:
    """A run that was killed after a step and resumed is the run that was not."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, chosen = base_model(checks, folder / "model"), settings(checks, 2 if checks.is_tiny else 4)
        codes = [
            exit_code(folder / "whole", model, chosen),
            exit_code(folder / "killed", model, chosen, killed=True),
            exit_code(folder / "killed", model, chosen, resume=True),
        ]
        checks.add("resume/exit_codes", codes, "0, killed, 0", codes == [0, -signal.SIGKILL, 0])
        whole, killed = (metrics(folder / name) for name in ("whole", "killed"))
    steps = [line["step"] for line in killed]
    checks.add("resume/steps", steps, "each once", steps == [line["step"] for line in whole])
    names = ("reward/mean", "update/loss", "update/grad_norm")
    found = [
        abs(one[name] - other[name])
        for one, other in zip(whole, killed, strict=True)
        for name in names
        if name in one and name in other
    ]
    diff = max(found, default=np.inf)
    # Where sums are rounded in another order, a token in a thousand may be another.
    checks.add("resume/metrics_diff", diff, "at most 0.02", diff <= 0.02)


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lora(checks: Checks) -> None:
    """A step that trains adapters: they change, what lies below them does not, and the engine samples with them."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chosen = settings(checks, 2, lora={"rank": 8}, warmup_steps=0, learning_rate=1e-3)
        with trainer_of(folder / "run", base_model(checks, folder / "model"), chosen) as trainer:
            before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
            trainer.train()
            changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p.detach(), before[n])}
        adapters = {name for name in before if "lora_" in name}
        lines = metrics(folder / "run")
    checks.add("lora/changed", len(changed), f"some of {len(adapters)}, no weight", set() < changed <= adapters)
    # The engine's log-probabilities against the trainer's, in the second step, when adapters are no longer 0.
    diff = max((line["mismatch/max"] for line in lines if "mismatch/max" in line), default=np.inf)
    checks.add("lora/mismatch", diff, "at most 1e-2", diff <= 1e-2)


def learns(checks: Checks) -> None:
    """A short run of the built-in task gets better at it."""
    if checks.is_tiny:
        checks.skip("learns/gain", "random weights have nothing to make likelier")
        return
    with TemporaryDirectory() as temporary:
        chosen = settings(checks, 20) | {"eval_at_start": True, "checkpoint": {"every": 0}}
        train(Path(temporary) / "run", base_model(checks, Path(temporary)), chosen)
        scores = [line["eval/avg"] for line in metrics(Path(temporary) / "run") if "eval/avg" in line]
    gain = scores[-1] - scores[0]
    checks.add("learns/gain", round(gain, 3), f"at least {MIN_GAIN}, {scores}", gain >= MIN_GAIN)

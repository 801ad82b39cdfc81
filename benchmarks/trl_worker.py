r"""Training steps by TRL's GRPOTrainer on the CPU; runs in TRL's own virtual environment, where treepo is not.

    python benchmarks/trl_worker.py MODEL_FOLDER WORK.json

WORK.json is made by trl_step.py, which says what is in it. Prints a line about this process and then, when training is
over, a line per training step: seconds, phases, counts. A training step is one generation and the updates on it. It
lasts from the end of the last update of the step before to the end of its own last update, so that everything that TRL
does counts; what is not in a phase is "other".
"""

# pyright: reportMissingImports=false

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1")

import accelerate
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

Work = dict[str, Any]


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer with a clock around its parts; what it computes is unchanged."""

    def start(self, work: Work) -> None:
        """To be called before training."""
        self.work = work
        self.steps: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, float] = {}
        self.add_callback(StepEnds(self))
        self.step_start = perf_counter()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the time within to a phase."""
        start = perf_counter()
        yield
        self.seconds[name] += perf_counter() - start

    def end_step(self) -> None:
        """A training step is over."""
        end = perf_counter()
        seconds = dict(self.seconds)
        # Each of these was timed with what is inside it.
        seconds["loss_and_backward"] -= seconds["prepare"]
        seconds["split"] = seconds.pop("prepare") - seconds["score"]
        seconds["score"] -= seconds["generate"] + seconds["old_logprobs"]
        total = end - self.step_start
        phases = seconds | {"other": total - sum(seconds.values())}
        self.steps.append({"seconds": total, "phases": phases, "counts": self.counts})
        self.seconds.clear()
        self.step_start = perf_counter()

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        problems = self.work["steps"][len(self.steps)]
        width = self.work["width"]
        assert prompt_ids == [p["prompt_ids"] for p in problems for _ in range(width)], "TRL asks something else"
        with self.timed("generate"):
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with self.timed("score"):
            output = super()._generate_and_score_completions(inputs)
        lengths = output["completion_mask"].sum(dim=1)
        metrics = self._metrics["train"]
        num_trajectories = len(lengths)
        self.counts = {
            "trajectories": num_trajectories,
            "trained": num_trajectories,
            "without_signal": round(metrics["frac_reward_zero_std"][-1] * num_trajectories),
            "reward": metrics["reward"][-1],
            "mean_len": lengths.float().mean().item(),
            "max_len": int(lengths.max()),
            "tokens": int(lengths.sum()),
            "decoded": output["completion_mask"].numel(),
            "forwarded": output["prompt_mask"].numel() + output["completion_mask"].numel(),
        }
        return output

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if torch.is_grad_enabled() else self.timed("old_logprobs"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        with self.timed("prepare"):
            return super()._prepare_inputs(generation_batch)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.timed("loss_and_backward"):
            return super().training_step(*args, **kwargs)

    def _clip_grad_norm(self, model: Any) -> Any:
        with self.timed("optimizer"):
            return super()._clip_grad_norm(model)


class StepEnds(TrainerCallback):
    """Tells a TimedTrainer when the optimiser steps, and when a training step is over."""

    def __init__(self, trainer: TimedTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Clipping is over."""
        self.start = perf_counter()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser has stepped."""
        self.trainer.seconds["optimizer"] += perf_counter() - self.start

    def on_step_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        """An update is over."""
        if state.global_step % self.trainer.work["num_updates"] == 0:
            self.trainer.end_step()


def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    r"""1 for a completion that ends in \boxed{answer}, as the built-in task has it, else 0."""
    return [float(text.endswith(rf"\boxed{{{a}}}")) for text, a in zip(completions, answer, strict=True)]


def make_config(work: Work, folder: str) -> GRPOConfig:
    """What treepo does too, and nothing beside training: no logs, reports, checkpoints, gradient checkpoints."""
    num_sequences = len(work["steps"][0]) * work["width"]
    per_update = num_sequences // work["num_updates"]
    return GRPOConfig(
        output_dir=folder,
        seed=work["seed"],
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        shuffle_dataset=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        num_generations=work["width"],
        max_completion_length=work["response_len"],
        per_device_train_batch_size=work["batch"],
        gradient_accumulation_steps=per_update // work["batch"],
        steps_per_generation=num_sequences // work["batch"],
        max_steps=len(work["steps"]) * work["num_updates"],
        num_iterations=1,
        temperature=work["temperature"],
        beta=0.0,
        epsilon=work["clip_low"],
        epsilon_high=work["clip_high"],
        loss_type="dapo",  # the mean over all tokens, as treepo's
        learning_rate=work["lr"],
        lr_scheduler_type="constant",
        adam_beta1=work["betas"][0],
        adam_beta2=work["betas"][1],
        weight_decay=work["weight_decay"],
        max_grad_norm=work["max_grad_norm"],
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def train(model: str, work: Work) -> list[dict[str, Any]]:
    """All training steps."""
    problems = [{k: p[k] for k in ("prompt", "answer")} for step in work["steps"] for p in step]
    with TemporaryDirectory() as folder:
        trainer = TimedTrainer(
            model=model,
            args=make_config(work, folder),
            reward_funcs=reward,
            train_dataset=Dataset.from_list(problems),
            processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        )
        assert trainer.model.dtype == torch.float32
        trainer.start(work)
        trainer.train()
    return trainer.steps


def main(model: str, work: Work) -> None:
    """Say what this is, then train."""
    # What TRL prints goes to standard error: standard output is for the answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    libraries = {"trl": trl, "torch": torch, "transformers": transformers, "accelerate": accelerate}
    about = {f"{name} (TRL's)": library.__version__ for name, library in libraries.items()}
    print(json.dumps(about | {"threads (TRL's)": torch.get_num_threads()}), file=answers, flush=True)
    for step in train(model, work):
        print(json.dumps(step), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))

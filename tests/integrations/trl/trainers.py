"""Small runs of TRL's trainers, recorded so that they can be compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOTrainer

from treepo.credit import GRPO
from treepo.grow import InitialFork, StopRules
from treepo.integrations.trl import TreeGRPOConfig

NUM_PROMPTS = 8

STAR: dict[str, Any] = {
    "tree_depth": 1,
    "initial_fork": InitialFork(64, 64),
    "stopping": StopRules(answer="never", repetition="never"),
    # TRL's eps.
    "estimator": GRPO(eps=1e-4),
}
"""A tree that forks at the prompt alone, with TRL's advantages."""


def dataset() -> Dataset:
    return Dataset.from_list([{"prompt": f"<bos>what is {i}+{i}", "answer": str(i)} for i in range(NUM_PROMPTS)])


def distinct_characters(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between completions."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(sum(map(ord, text)) % 7) for text in texts]


def config(folder: Path, **settings: Any) -> TreeGRPOConfig:
    """Settings under which a change of the weights shows every gradient."""
    plain: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 1e9,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return TreeGRPOConfig(output_dir=str(folder / "out"), **plain | settings)


def recording(kind: type[GRPOTrainer], replayed: list[Any] | None = None) -> Any:
    """A class of trainers that keeps `losses` and `samples`; replayed: samples that it takes instead of new ones."""

    class Recording(kind):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.losses: list[float] = []
            self.samples: list[Any] = []
            super().__init__(*args, **kwargs)

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            found = replayed[len(self.samples)] if replayed else super()._generate_single_turn(*args, **kwargs)
            self.samples.append(found)
            return found

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.losses.append(float(loss))
            return loss

    return Recording


def train(kind: Any, model: Any, args: TreeGRPOConfig, **given: Any) -> Any:
    """Train with a reward that differs between completions, and return the trainer."""
    reward: Callable[..., Any] = given.pop("reward_funcs", distinct_characters)
    given.setdefault("train_dataset", dataset())
    trainer = kind(str(model) if isinstance(model, Path) else model, reward, args=args, **given)
    trainer.train()
    return trainer


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def assert_same_training(one: Any, other: Any) -> None:
    """The same losses, gradient norms, metrics and weights but for rounding."""
    torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(other.losses), rtol=2e-4, atol=2e-6)
    for ours, theirs in zip(one.state.log_history[:-1], other.state.log_history[:-1], strict=True):
        for name in theirs.keys() - {"step_time"}:
            difference = abs(ours[name] - theirs[name])
            assert difference <= 2e-3 * abs(theirs[name]) + 2e-5, f"{name}: {ours[name]} and {theirs[name]}"
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-4, atol=2e-5)

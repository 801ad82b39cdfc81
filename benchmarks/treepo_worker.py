"""Training steps by treepo, the counterpart of trl_worker.py.

    python benchmarks/treepo_worker.py RECIPE.toml [--train-on-all]

Takes as many training steps as the recipe says and prints a line for each: seconds, phases, counts (see trl_step.py).
--train-on-all: also on trees whose rewards all agree. They have nothing to teach, so treepo has no setting for it; here
every tree is passed off as one that carries a signal.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

from treepo.config.load import read_recipe, resolve
from treepo.learn.trainer import StepResult
from treepo.run.build import build_run

PHASES = ("grow", "verify", "pack", "update")


def steps(recipe: Path) -> Iterator[dict[str, Any]]:
    """What is printed for each training step."""
    config = resolve(read_recipe(recipe))
    trainer = build_run(config, lambda *_: None).trainer
    for number in range(1, config.train.num_steps + 1):
        start = perf_counter()
        result = trainer.step(number)
        seconds = perf_counter() - start
        phases = {name: result.metrics[f"time/{name}_s"] for name in PHASES}
        phases["other"] = seconds - sum(phases.values())
        yield {"seconds": seconds, "phases": phases, "counts": counts(result)}


def counts(result: StepResult) -> dict[str, float]:
    """Trajectories and tokens of a step."""
    sizes = [len(rewards) for rewards in result.rewards]
    trained = [advantages is not None for advantages in result.advantages]
    agreed = [rewards.min() == rewards.max() for rewards in result.rewards]
    metrics = result.metrics
    return {
        "trajectories": sum(sizes),
        "trained": sum(size for size, is_trained in zip(sizes, trained, strict=True) if is_trained),
        "without_signal": sum(size for size, is_agreed in zip(sizes, agreed, strict=True) if is_agreed),
        "reward": metrics["reward/mean"],
        "mean_len": metrics["completions/length/mean"],
        "max_len": metrics["completions/length/max"],
        "tokens": metrics["tokens/total"],
        "decoded": metrics["tokens/decoded"],
        "forwarded": metrics["tokens/forwarded"],
    }


def main(recipe: Path, train_on_all: bool) -> None:
    """Take all steps."""
    with patch("treepo.learn.trainer.has_signal", lambda _: True) if train_on_all else nullcontext():
        for step in steps(recipe):
            assert not train_on_all or step["counts"]["trained"] == step["counts"]["trajectories"]
            print(json.dumps(step), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--train-on-all", action="store_true")
    options = parser.parse_args()
    main(options.recipe, options.train_on_all)

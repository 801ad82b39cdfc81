"""GRPO's advantages and TreePO's on trees less GRPO on independent samples, at equal steps and at equal tokens.

    python -m experiments.equal_tokens

Reads the results of chain_sums.py and estimators.py: the same seeds, problems and evaluations. Tokens are those of a
mean step of the run. At equal tokens GRPO's accuracy is read on a line between evaluations 8 steps apart, which lies
below a curve that bends down: where an evaluation is near, as in the last column, that matters little.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.paired_stats import Point, at_cost, markdown, mean_interval, signed

RESULTS = Path(__file__).parent / "results"
STEPS = (8, 16, 24)
NUM_STEPS = 35


def table(sums: dict[str, Any], estimators: dict[str, Any]) -> str:
    """Markdown: differences in points of avg, mean over seeds and 95% t interval. As results files hold runs."""
    seeds = list(estimators["TreePO"])
    stars = {seed: points(sums[f"grpo-{seed}"]["held_out"], decoded_per_step(sums[f"grpo-{seed}"])) for seed in seeds}
    rows = []
    for name, label in (("GRPO", "GRPO with tree sampling"), ("TreePO", "TreePO")):
        trees = {seed: points(estimators[name][seed], decoded_per_step(sums[f"treepo-{seed}"])) for seed in seeds}
        by_steps = [differences(trees, stars, "step", step) for step in STEPS]
        overall = [fmean(of_seed) for of_seed in zip(*by_steps, strict=True)]
        at_end = differences(trees, stars, "decoded", STEPS[-1])
        rows.append([label, *(signed(*mean_interval(column)) for column in (*by_steps, overall, at_end))])
    heads = ["less GRPO", *(f"step {step}" for step in STEPS), "all three", f"tokens of {STEPS[-1]} steps on trees"]
    return markdown(heads, rows)


def decoded_per_step(run: dict[str, Any]) -> float:
    """Tokens that a run decodes in a step, on average over all of it."""
    return run["tokens"]["decoded"] / NUM_STEPS


def points(held_out: dict[str, list[float]], decoded: float) -> list[Point]:
    """Accuracy at temperature 1 against steps and tokens."""
    return [{"step": int(step), "decoded": int(step) * decoded, "avg": found[0]} for step, found in held_out.items()]


def differences(trees: dict[str, list[Point]], stars: dict[str, list[Point]], cost: str, step: int) -> list[float]:
    """Seed by seed, where trees have made so many steps."""
    found = []
    for seed, own in trees.items():
        (point,) = (p for p in own if p["step"] == step)
        found.append(point["avg"] - at_cost(stars[seed], cost, point[cost], "avg"))
    return found


def read(name: str) -> dict[str, Any]:
    """The runs of a results file."""
    return json.loads((RESULTS / f"{name}.json").read_text())["runs"]


if __name__ == "__main__":
    print(table(read("chain_sums"), read("estimators")))

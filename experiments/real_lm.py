"""GRPO, TreePO and planned shapes on a real language model: held-out accuracy against seconds, tokens and steps.

    OMP_NUM_THREADS=2 python experiments/real_lm.py --seeds 0 1 2 --minutes 6 --out runs/real_lm

The recipe of `make demo-lm`: SmolLM2-135M-Instruct learns sums of reasoning-gym (pip install
'treepo[gguf,reasoning-gym]'). GRPO is the same recipe with answers that fork at the root alone and its own credit;
Planned forks where the trees so far say that it pays (docs/shapes.md). Each run trains for the same time, in which
evaluations do not count, and is measured every few steps on the same held-out problems. A run that was interrupted
goes on, one that is there is read. Prints a table, writes experiments/results/real_lm.json and docs/plots/real_lm.png.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import treepo
from treepo.bench.common import describe_machine

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "smollm2_reasoning.toml"
VARIANTS: dict[str, dict[str, Any]] = {
    "GRPO": {
        "tree": {"width": 8, "depth": 1, "segment_len": 48, "num_children": 8},
        "initial_fork": {"low": 8, "high": 8},
        "credit": treepo.credit.GRPO(),
    },
    "TreePO": {},
    # Half of the 16 problems of a step explore: a run has some ten steps, and a plan needs about 32 trees.
    "Planned": {"branching": treepo.grow.Planned(explore=0.5)},
}
COLORS = {"GRPO": "tab:gray", "TreePO": "tab:green", "Planned": "tab:blue"}
COSTS = {"seconds": "time/step_s", "decoded": "tokens/decoded", "forwarded": "tokens/forwarded"}


def main(names: list[str], seeds: list[int], minutes: float, every: int, out: Path) -> None:
    """Run what is missing, in processes of their own, then print and write the figures."""
    curves: dict[str, dict[int, list[dict[str, float]]]] = {name: {} for name in names}
    for seed in seeds:
        for name in names:
            folder = out / f"{name.lower()}-{seed}"
            if not (folder / "model").is_dir():
                options = ["--one", name, "--seeds", str(seed), "--minutes", str(minutes), "--every", str(every)]
                subprocess.run([sys.executable, __file__, *options, "--out", str(out)], check=True)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # gigabytes, and the run is over
            curves[name][seed] = list(points(folder))
            print(f"{name}, seed {seed}: {curves[name][seed][-1]}", flush=True)
    command = f"python experiments/real_lm.py --seeds {' '.join(map(str, seeds))} --minutes {minutes:g} --every {every}"
    machine = describe_machine("cpu") | {"command": command}
    results = HERE / "results" / "real_lm.json"
    results.write_text(json.dumps({"machine": machine, "curves": curves}, indent=1) + "\n")
    print(table(curves))
    draw(curves, HERE.parent / "docs" / "plots" / "real_lm.png")


def run_one(name: str, seed: int, minutes: float, every: int, out: Path) -> None:
    """Train until the seconds of the steps are spent; goes on with a run that was interrupted."""
    folder = out / f"{name.lower()}-{seed}"
    config = treepo.TreePOConfig(
        recipe=RECIPE,
        output_dir=folder,
        seed=seed,
        max_steps=1000,
        eval_steps=every,
        save_steps=every,
        **VARIANTS[name],
    )
    with treepo.TreePOTrainer(config=config) as trainer:
        for _ in trainer.steps(resume=any((folder / "checkpoints").glob("step-*"))):
            if sum(step.get("time/step_s", 0.0) for step in logged(folder)) >= 60 * minutes:
                trainer.stop()


def logged(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run's steps."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def points(folder: Path) -> Iterator[dict[str, float]]:
    """What had been spent and how many held-out problems were solved, at each evaluation."""
    spent = dict.fromkeys(COSTS, 0.0)
    for step in logged(folder):
        spent = {
            cost: value + step.get(metric, 0.0)
            for (cost, value), metric in zip(spent.items(), COSTS.values(), strict=True)
        }
        if "eval/avg" in step:
            yield {"step": step["step"], **spent, "avg": step["eval/avg"], "greedy": step["eval/greedy"]}


def at(points: list[dict[str, float]], cost: str, spent: float, score: str) -> float:
    """The score when so much was spent, on a line between the evaluations before and after."""
    for before, after in pairwise(points):
        if before[cost] <= spent <= after[cost]:
            share = (spent - before[cost]) / max(after[cost] - before[cost], 1e-9)
            return before[score] + share * (after[score] - before[score])
    return points[-1][score]


def table(curves: dict[str, dict[int, list[dict[str, float]]]]) -> str:
    """Markdown: medians over seeds with the range, where the run that got least far had spent all, half, a quarter."""
    rows = ["| at equal | " + " | ".join(f"{name} avg | {name} greedy" for name in curves) + " |"]
    rows.append("|---" * (1 + 2 * len(curves)) + "|")
    for cost in ("step", *COSTS):
        most = min(own[-1][cost] for of_name in curves.values() for own in of_name.values())
        for share in (0.25, 0.5, 1.0):
            cells = []
            for of_name in curves.values():
                for score in ("avg", "greedy"):
                    found = [100 * at(own, cost, share * most, score) for own in of_name.values()]
                    cells.append(f"{median(found):.0f}% ({min(found):.0f} - {max(found):.0f})")
            rows.append(f"| {share * most:,.0f} {cost} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(curves: dict[str, dict[int, list[dict[str, float]]]], path: Path) -> None:
    """Accuracy at temperature 1 against each cost, a line per run."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - figures only

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axes, cost in zip(figure.subplots(1, 3, sharey=True), COSTS, strict=True):
        for name, of_name in curves.items():
            for number, own in enumerate(of_name.values()):
                label = name if number == 0 else None
                axes.plot([p[cost] for p in own], [100 * p["avg"] for p in own], color=COLORS[name], label=label)
        axes.set_xlabel({"seconds": "seconds of training"}.get(cost, f"tokens {cost}"))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("held-out accuracy, %")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=6.0, help="of training, for each run")
    parser.add_argument("--every", type=int, default=5, help="steps between evaluations")
    parser.add_argument("--out", type=Path, default=Path("runs/real_lm"))
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run_one(given.one, given.seeds[0], given.minutes, given.every, given.out)
    else:
        main(given.variants, given.seeds, given.minutes, given.every, given.out)

"""Trees against independent episodes in the built-in environments, at equal tokens decoded and equal environment steps.

    OMP_NUM_THREADS=1 python -m experiments.environments --seeds 0 1 2 3 4

Independent episodes are stars, whose leaves GRPO credits; both variants have the same width, problems and
learning rate. A run that is there is read, one that was interrupted is made again; tasks that are not asked for
stay in the results. What a run has spent does not count
evaluations. Seconds of the processor are those of all threads of the process. Prints Markdown, and writes
experiments/results/environments.json and docs/plots/environments.png.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

import numpy as np

from experiments.paired import RESULTS, ROOT, rounded
from experiments.paired_stats import Point, at_cost, markdown, mean_interval, signed, values_at
from treepo.bench.common import describe_machine
from treepo.config.load import read_recipe, resolve
from treepo.config.schema import Config
from treepo.run.build import Run, build_run
from treepo.tree import Tree
from treepo.utils.io import replace_text

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "episodes, GRPO": ("grpo", {}),
    "trees, TreePO": ("treepo", {}),
}
COSTS = ("decoded", "env_steps", "cpu_s", "wall_s")
UNITS = {"decoded": "tokens decoded", "env_steps": "environment steps", "cpu_s": "s of processor", "step": "steps"}
PLANS = {
    "maze": {"steps": 20, "every": 5, "problems": 64, "samples": 2},
    "calculator": {"steps": 12, "every": 2, "problems": 64, "samples": 2},
}
QUICK = {"steps": 2, "every": 1, "problems": 4, "samples": 2}

Curves = dict[str, dict[str, list[Point]]]


def main(tasks: Sequence[str], seeds: Sequence[int], out: Path, is_quick: bool) -> None:
    """Run what is missing, print the tables, and write results and figure."""
    plans = dict.fromkeys(PLANS, QUICK) if is_quick else PLANS
    curves: dict[str, Curves] = {task: {label: {} for label in VARIANTS} for task in tasks}
    for task in tasks:
        for seed in seeds:
            for label in VARIANTS:
                points = points_of(task, label, seed, plans[task], out)
                curves[task][label][str(seed)] = points
                print(f"{task}, {label}, seed {seed}: {points[-1]}", flush=True)
    for task in tasks:
        print(f"\n## {task}\n\n{table(curves[task])}")
    if is_quick:
        return
    path = RESULTS / "environments.json"
    before = json.loads(path.read_text())["curves"] if path.is_file() else {}
    command = f"python -m experiments.environments --tasks {' '.join(tasks)} --seeds {' '.join(map(str, seeds))}"
    found = {"machine": describe_machine("cpu") | {"command": command}, "plans": plans, "curves": before | curves}
    path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found["curves"], ROOT / "docs" / "plots" / "environments.png")


def points_of(task: str, label: str, seed: int, plan: Mapping[str, int], out: Path) -> list[Point]:
    """The points of a run, read if they are there, else made."""
    path = out / f"{task}-{label.replace(', ', '-')}-{seed}-{'-'.join(map(str, plan.values()))}.json"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        points = run_points(config_of(task, label, seed, plan), plan)
        replace_text(path, json.dumps(points) + "\n")
    return json.loads(path.read_text())


def config_of(task: str, label: str, seed: int, plan: Mapping[str, int]) -> Config:
    """The settings of a run."""
    recipe, settings = VARIANTS[label]
    own = {
        "train": {"seed": seed, "num_steps": plan["steps"]},
        "eval": {"num_problems": plan["problems"], "num_samples": plan["samples"]},
    }
    return resolve(read_recipe(ROOT / "recipes" / f"{task}_{recipe}.toml"), settings, own)


def run_points(config: Config, plan: Mapping[str, int]) -> list[Point]:
    """Train and measure: a point before training, and one after every so many steps."""
    run = build_run(config, say_progress)
    spent, points = dict.fromkeys(COSTS, 0.0), [{"step": 0.0, **dict.fromkeys(COSTS, 0.0), **measured(run)}]
    for step in range(1, plan["steps"] + 1):
        began = process_time()
        result = run.trainer.step(step)
        costs = {
            "decoded": result.metrics["tokens/decoded"],
            "env_steps": sum(map(num_env_steps, result.trees)),
            "cpu_s": process_time() - began,
            "wall_s": result.metrics["time/step_s"],
        }
        spent = {cost: spent[cost] + costs[cost] for cost in COSTS}
        if step % plan["every"] == 0:
            points.append({"step": float(step), **rounded(spent), **measured(run)})
    run.close()
    return points


def say_progress(step: int, total: int, loss: float) -> None:
    """Print how far a base model is."""
    if step % 50 == 0:
        print(f"base model: step {step} of {total}, loss {loss:.3f}", flush=True)


def num_env_steps(tree: Tree) -> int:
    """How often an environment was stepped for a tree: each time, a node was given the reward of a turn."""
    return sum(node.reward is not None for node in tree.nodes)


def measured(run: Run) -> Point:
    """Held-out accuracy, of episodes sampled at temperature 1 and of greedy ones."""
    # The same evaluation problems and random numbers in all runs of all seeds.
    fixed = replace(run, config=replace(run.config, train=replace(run.config.train, seed=0)))
    metrics = fixed.evaluate()
    return rounded({"avg": metrics["eval/avg"], "greedy": metrics["eval/greedy"]})


def table(curves: Curves) -> str:
    """Markdown: accuracy in percent where the cheapest run had spent half and all of its cost, mean over seeds, and the
    paired difference to the first variant with its 95% t interval."""
    base = next(iter(curves))
    amounts = {
        (cost, share): share * min(points[-1][cost] for of_label in curves.values() for points in of_label.values())
        for cost in UNITS
        for share in (0.5, 1.0)
    }

    def cell(label: str, cost: str, spent: float) -> str:
        own, other = (values_at(curves[name], cost, spent, "avg") for name in (label, base))
        shown = f"{100 * fmean(own):.1f}"
        differences = [100 * (a - b) for a, b in zip(own, other, strict=True)]
        return shown if label == base else f"{shown} ({signed(*mean_interval(differences))})"

    rows = [
        [f"{amount:,.0f} {UNITS[cost]}", *(cell(label, cost, amount) for label in curves)]
        for (cost, _), amount in amounts.items()
    ]
    ends = [[points[-1] for points in of_label.values()] for of_label in curves.values()]
    per_step = [
        [f"{UNITS[cost]} per step", *(f"{fmean(point[cost] / point['step'] for point in own):,.1f}" for own in ends)]
        for cost in ("decoded", "env_steps", "cpu_s")
    ]
    first = [[f"{100 * fmean(points[0]['avg'] for points in own.values()):.1f}" for own in curves.values()]]
    return markdown(["accuracy in percent after", *curves], [["0 steps", *first[0]], *rows, *per_step])


def draw(curves: Mapping[str, Curves], path: Path) -> None:
    """Accuracy against tokens and environment steps: thin lines of seeds, a thick one of their mean."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - figures only

    figure = Figure(figsize=(10, 3.6 * len(curves)), layout="constrained")
    grid = figure.subplots(len(curves), 2, sharey=True, squeeze=False)
    for row, (task, of_task) in zip(grid, curves.items(), strict=True):
        for axes, cost in zip(row, ("decoded", "env_steps"), strict=True):
            for number, (label, of_label) in enumerate(of_task.items()):
                for points in of_label.values():
                    own = [p[cost] for p in points], [100 * p["avg"] for p in points]
                    axes.plot(*own, color=f"C{number}", alpha=0.25, linewidth=0.8)
                spent = np.linspace(0, min(points[-1][cost] for points in of_label.values()), 60)
                means = [100 * fmean(at_cost(p, cost, at, "avg") for p in of_label.values()) for at in spent]
                axes.plot(spent, means, color=f"C{number}", label=label)
            axes.set_xlabel(UNITS[cost])
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"{task}: held-out accuracy, %")
    grid[0][1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(PLANS), choices=PLANS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/environments"), help="where runs are kept")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, nothing written but the runs")
    given = parser.parse_args()
    main(given.tasks, given.seeds[:1] if given.quick else given.seeds, given.out, given.quick)

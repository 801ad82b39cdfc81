"""Choose learning rate and width for GRPO, which all other variants then take over, on seeds and problems of their own.

    OMP_NUM_THREADS=1 python -m experiments.baseline --task chain_sums      # 8 short runs

First the rate at width 8, then the width at that rate with as many trajectories per step. Two seeds that no experiment
uses, held-out problems that no experiment uses; chosen is what is right most often on average over all evaluations.
Writes experiments/results/baseline-TASK.json.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.paired import RESULTS, Plan, Variant, in_own_process, run_spec
from experiments.paired_stats import markdown
from treepo.bench.common import describe_machine

SEEDS = (100, 101)
RATES = (1e-4, 2e-4, 4e-4)
WIDTHS = (8, 16)
TRAJECTORIES = 256
PLAN = Plan(steps=9, every=3, problems=48, samples=4, skipped=1000)


def main(task: str, out: Path) -> None:
    """Run the grid, print it, and write what is chosen."""
    rows = [measured(task, rate, WIDTHS[0], out) for rate in RATES]
    rate = best(rows)["optim"]["lr"]
    rows += [measured(task, rate, width, out) for width in WIDTHS[1:]]
    command = f"python -m experiments.baseline --task {task}"
    found = {"machine": describe_machine("cpu") | {"command": command}, "plan": asdict(PLAN), "seeds": SEEDS}
    results = found | {"chosen": best(rows), "grid": rows}
    RESULTS.joinpath(f"baseline-{task}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(["learning rate", "width", "avg, %"], [cells(row) for row in rows]))


def measured(task: str, rate: float, width: int, out: Path) -> dict[str, Any]:
    """Settings, accuracies of each seed, and their mean."""
    train = {"prompts_per_step": TRAJECTORIES // width}
    layer: dict[str, dict[str, Any]] = {"optim": {"lr": rate}, "tree": {"width": width}, "train": train}
    runs = [in_own_process(run_spec(task, Variant("grpo"), layer, seed, PLAN), out) for seed in SEEDS]
    avg = [[point["avg"] for point in points] for points in runs]
    return {"settings": layer, "score": fmean(map(fmean, avg)), "avg": avg}


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that were right most often."""
    return max(rows, key=lambda row: row["score"])["settings"]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    settings = row["settings"]
    return [f"{settings['optim']['lr']:g}", str(settings["tree"]["width"]), f"{100 * row['score']:.1f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="chain_sums")
    parser.add_argument("--out", type=Path, default=Path("runs/paired"))
    given = parser.parse_args()
    main(given.task, given.out)

"""How long TreePO and GRPO train until they are right on 60% of held-out problems, with and without packing.

    OMP_NUM_THREADS=2 python -m experiments.time_to_accuracy --seeds 0 1 2 3 4       # about 15 minutes on two cores

The built-in task and its recipes. Held-out accuracy (400 problems, 2 answers each at temperature 1) is measured after
every step; only the steps count as time. The four variants of a seed run one after another, each in a process of its
own. Results go to experiments/results/time_to_accuracy.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from experiments.paired_stats import ratio_interval
from treepo.bench.common import describe_machine
from treepo.config.load import read_recipe, resolve
from treepo.run.build import build_run

HERE = Path(__file__).parent
VARIANTS = {
    "TreePO": ("treepo", True),
    "TreePO, no packing": ("treepo", False),
    "GRPO": ("grpo", True),
    "GRPO, no packing": ("grpo", False),
}
"""Recipe, and whether shared tokens are trained once."""


def main(seeds: list[int], target: float, max_steps: int) -> None:
    """Run every variant with every seed, print the table and write the figures."""
    runs: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    for seed in seeds:
        for name in VARIANTS:
            runs[name].append(in_own_process(name, seed, target, max_steps))
            print(f"seed {seed}, {name}: {runs[name][-1]['seconds']:.1f} s", flush=True)
    command = f"python -m experiments.time_to_accuracy --seeds {' '.join(map(str, seeds))}"
    machine = describe_machine("cpu") | {"command": command}
    results = HERE / "results" / "time_to_accuracy.json"
    results.write_text(json.dumps({"machine": machine, "target": target, "runs": runs}, indent=1) + "\n")
    print(table(runs, target), ratios(runs), sep="\n\n")


def in_own_process(name: str, seed: int, target: float, max_steps: int) -> dict:
    """The figures of one run."""
    options = ["--one", name, "--seeds", str(seed), "--target", str(target), "--max-steps", str(max_steps)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.time_to_accuracy", *options], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_one(name: str, seed: int, target: float, max_steps: int) -> dict:
    """Train until the target is reached: steps, seconds of them in all and by phase, accuracy after each."""
    recipe, packing = VARIANTS[name]
    settings = read_recipe(HERE.parent / "recipes" / f"chain_sums_{recipe}.toml")
    config = resolve(settings, {"train": {"seed": seed, "packing": packing}})
    # A step that does not count: what is built and loaded when it is first needed.
    build_run(config, lambda *_: None).trainer.step(1)
    run = build_run(config, lambda *_: None)
    accuracies: list[float] = []
    phases = dict.fromkeys(("grow", "verify", "pack", "update", "step"), 0.0)
    forwarded = 0
    while len(accuracies) < max_steps and (not accuracies or accuracies[-1] < target):
        metrics = run.trainer.step(len(accuracies) + 1).metrics
        phases = {phase: seconds + metrics[f"time/{phase}_s"] for phase, seconds in phases.items()}
        forwarded += int(metrics["tokens/forwarded"])
        accuracies.append(run.evaluate()["eval/avg"])
    seconds = phases.pop("step")
    reached = accuracies[-1] >= target
    return {
        "seed": seed,
        "reached": reached,
        "steps": len(accuracies),
        "seconds": round(seconds, 3),
        "phases_s": {phase: round(value, 3) for phase, value in phases.items()},
        "forwarded": forwarded,
        "accuracies": [round(a, 4) for a in accuracies],
    }


def table(runs: dict[str, list[dict]], target: float) -> str:
    """Markdown: medians over seeds with the range."""
    rows = [f"| to {target:.0%} | steps | seconds | grow s | update s | tokens forwarded |", "|" + "---|" * 6]
    for name, own in runs.items():
        columns = [
            [r["steps"] for r in own],
            [r["seconds"] for r in own],
            [r["phases_s"]["grow"] for r in own],
            [r["phases_s"]["update"] + r["phases_s"]["pack"] for r in own],
            [r["forwarded"] for r in own],
        ]
        shown = [f"{median(c):,.4g} ({min(c):,.4g} - {max(c):,.4g})" for c in columns]
        missed = sum(not r["reached"] for r in own)
        rows.append(f"| {name}{f' ({missed} never)' if missed else ''} | {' | '.join(shown)} |")
    return "\n".join(rows)


PAIRS = (("TreePO", "GRPO"), ("GRPO", "GRPO, no packing"), ("TreePO", "TreePO, no packing"))


def ratios(runs: dict[str, list[dict]]) -> str:
    """Markdown: ratios of medians, and the 95% t interval of the paired ratios."""
    kinds = ("steps", "seconds", "forwarded")
    rows = ["| | steps | seconds | tokens forwarded |", "|" + "---|" * 4]
    for one, other in PAIRS:
        pairs = [([r[kind] for r in runs[one]], [r[kind] for r in runs[other]]) for kind in kinds]
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*ratio_interval(*pair)) for pair in pairs]
        rows.append(f"| {one} over {other} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--target", type=float, default=0.6)
    parser.add_argument("--max-steps", type=int, default=40)
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options.seeds[0], options.target, options.max_steps)))
    else:
        main(options.seeds, options.target, options.max_steps)

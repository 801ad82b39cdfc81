"""All estimators on the built-in task, over several seeds: the same trees, other advantages.

    python -m experiments.estimators --seeds 0 1 2 --out runs/estimators

Every variant is the recipe chain_sums_treepo.toml with another [credit]; nothing else is tuned for it. A run that is
there already is read, not repeated. Prints a table of held-out accuracies (medians over seeds, and the lowest and the
highest) and writes OUT/estimators.json. About a minute a run on one core.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, median

from experiments.paired_stats import mean_interval, signed
from treepo.bench.common import describe_machine

RECIPE = Path(__file__).parent.parent / "recipes" / "chain_sums_treepo.toml"
NUM_STEPS, EVERY = 24, 8
VARIANTS = {
    "GRPO": {"use": "GRPO"},
    "DrGRPO": {"use": "DrGRPO"},
    "RLOO": {"use": "RLOO"},
    "RLOO, unbiased leaves": {"use": "RLOO", "leaves": "unbiased"},
    "REINFORCE++": {"use": "REINFORCEPlusPlus"},
    "MaxRL": {"use": "MaxRL"},
    "TreePO": {"use": "TreePO"},
    "TreePO, by size": {"use": "TreePO", "weight": "size"},
    "TreePO, rejection": {"use": "TreePO", "reject_agreeing": "true"},
    "TreePO, without root": {"use": "TreePO", "with_root": "false"},
    "TreePO, distinct": {"use": "TreePO", "distinct": "true"},
    "TreePO, divided by std": {"use": "TreePO", "divide_by_std": "true"},
    "ValueDifference": {"use": "ValueDifference"},
    "FadingDifference, .9": {"use": "FadingDifference", "eta": "0.9"},
    "SPO": {"use": "SPO"},
    "TreeRL": {"use": "TreeRL"},
}


def main(seeds: list[int], names: list[str], out: Path) -> None:
    """Run what is missing, then print and write the figures."""
    figures: dict[str, dict[int, dict[int, list[float]]]] = {}
    for seed in seeds:
        for name in names:
            folder = out / f"{name.lower().replace(', ', '-').replace(' ', '-')}-{seed}"
            if not (folder / "model").is_dir():
                run(VARIANTS[name], seed, folder)
            figures.setdefault(name, {})[seed] = accuracies(folder)
    found = {"machine": describe_machine("cpu"), "runs": figures}
    (out / "estimators.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(figures), differences(figures), sep="\n\n")


def run(credit: dict[str, str], seed: int, folder: Path) -> None:
    """One training run in a process of its own."""
    options = {"train.seed": seed, "train.num_steps": NUM_STEPS, "train.save_trees_every": 0, "eval.every": EVERY}
    settings = {f"credit.{key}": value for key, value in credit.items()} | options
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "treepo", "train", str(RECIPE), *words, "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def accuracies(folder: Path) -> dict[int, list[float]]:
    """step -> held-out accuracy in percent, over answers at temperature 1 and greedy."""
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        m["step"]: [round(100 * m[f"eval/{kind}"], 1) for kind in ("avg", "greedy")] for m in log if "eval/avg" in m
    }


def table(figures: dict[str, dict[int, dict[int, list[float]]]]) -> str:
    """Markdown, a row per variant: at each evaluated step, at temperature 1 and greedy."""
    steps = range(EVERY, NUM_STEPS + 1, EVERY)
    rows = [f"| credit | {' | '.join(f'step {s}' for s in steps)} |", "|" + "---|" * (len(steps) + 1)]
    for name, by_seed in figures.items():
        cells = []
        for step in steps:
            at_step = [by_seed[seed][step] for seed in by_seed]
            cells.append(" / ".join(spread([a[kind] for a in at_step]) for kind in range(2)))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def differences(figures: dict[str, dict[int, dict[int, list[float]]]], base: str = "TreePO") -> str:
    """Markdown, a row per variant: accuracy at temperature 1 less that of the base, seed by seed.

    At each evaluated step and on average over them; mean over seeds and 95% t interval.
    """
    steps = range(EVERY, NUM_STEPS + 1, EVERY)
    rows = [f"| credit | {' | '.join(f'step {s}' for s in steps)} | all three |", "|" + "---|" * (len(steps) + 2)]
    for name, by_seed in figures.items():
        less = [[by_seed[seed][s][0] - figures[base][seed][s][0] for s in steps] for seed in by_seed]
        columns = [*zip(*less, strict=True), [fmean(of_seed) for of_seed in less]]
        rows.append(f"| {name} | {' | '.join(signed(*mean_interval(column)) for column in columns)} |")
    return "\n".join(rows)


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/estimators"))
    options = parser.parse_args()
    main(options.seeds, options.variants, options.out)

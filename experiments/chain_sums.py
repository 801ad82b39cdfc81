"""TreePO against GRPO on the built-in task, over several seeds.

    python experiments/chain_sums.py --seeds 0 1 2 --out runs/chain_sums

Runs both recipes with every seed (a run that is there already is read, not repeated), prints a table and writes the
figures to OUT/chain_sums.json. About two minutes a run on one core.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from treepo.bench.common import describe_machine

RECIPES = ("treepo", "grpo")
EVALUATED = (0, 8, 16, 24, 32, 35)


def main(seeds: list[int], out: Path) -> None:
    """Run what is missing, then print and write the figures."""
    figures = {}
    for recipe in RECIPES:
        for seed in seeds:
            folder = out / f"{recipe}-{seed}"
            if not (folder / "model").is_dir():
                run(recipe, seed, folder)
            figures[f"{recipe}-{seed}"] = read(folder)
    out.mkdir(parents=True, exist_ok=True)
    found = {"machine": describe_machine("cpu"), "runs": figures}
    (out / "chain_sums.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(figures))


def run(recipe: str, seed: int, folder: Path) -> None:
    """One training run in a process of its own, evaluated every 8 steps."""
    path = Path(__file__).parent.parent / "recipes" / f"chain_sums_{recipe}.toml"
    options = ["--train.seed", str(seed), "--eval.every", "8", "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "treepo", "train", str(path), *options], check=True)


def read(folder: Path) -> dict[str, object]:
    """The figures of one run: accuracies in percent, medians over steps, token counts over the whole run."""
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [m for m in log if "tokens/decoded" in m]
    evaluated = [m for m in log if "eval/avg" in m]
    names = ("decoded", "total", "forwarded", "unpacked")
    return {
        "held_out": {m["step"]: [round(100 * m[f"eval/{kind}"], 1) for kind in ("avg", "greedy")] for m in evaluated},
        "tokens": {name: sum(m[f"tokens/{name}"] for m in steps) for name in names},
        "median_s": {name: round(median(m[f"time/{name}_s"] for m in steps), 3) for name in ("grow", "update", "step")},
    }


def table(figures: dict[str, dict]) -> str:
    """Markdown, a row per run."""
    columns = [*(f"step {s}" for s in EVALUATED), "decoded of total", "forwarded of unpacked", "s/step"]
    rows = [f"| run | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for name, f in figures.items():
        accuracies = [f"{a} / {g}" for a, g in (f["held_out"][s] for s in EVALUATED if s in f["held_out"])]
        tokens = f["tokens"]
        shares = f"{tokens['decoded'] / tokens['total']:.0%} | {tokens['forwarded'] / tokens['unpacked']:.0%}"
        rows.append(f"| {name} | {' | '.join(accuracies)} | {shares} | {f['median_s']['step']:.2f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/chain_sums"))
    options = parser.parse_args()
    main(options.seeds, options.out)

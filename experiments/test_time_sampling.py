"""Sequential against tree sampling at test time, on the model that the demo trains: accuracy beside cost.

    python experiments/test_time_sampling.py --out runs/test_time

The paper's comparison (arXiv 2508.17445, section 4.3: 16 trajectories per problem, b = 2, 4, 8, with as many first
children or 2 to 8 of them) on the built-in task's held-out problems: `treepo train`, then `treepo eval`. What is there
already is not repeated. Prints the tables as Markdown and writes OUT/test_time_sampling.json. Some six minutes on one
core.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from treepo.evaluate.estimates import COLUMNS, aggregate
from treepo.evaluate.results import to_json
from treepo.evaluate.store import AnswerStore
from treepo.evaluate.table import text_tables

MORE = "initial_fork.low=2,initial_fork.high=8"
WAYS = (
    "sequential",
    *(f"tree:num_children={b},initial_fork.low={b},initial_fork.high={b}" for b in (2, 4, 8)),
    *(f"tree:num_children={b},{MORE}" for b in (2, 4, 8)),
)
WANTED = ("avg@k", "maj@k", "Gain over the first row, problem by problem", "Cost and accuracy")


def main(out: Path, num_problems: int) -> None:
    """Train and evaluate what is missing, then print and write the figures."""
    if not (out / "run" / "model").is_dir():
        treepo("train", "--eval.num_problems", "0", "--out", str(out / "run"))
    model, answers = out / "run" / "model", out / "eval"
    sampling = ["--samples", "16", "--problems", str(num_problems), "--sampling", *WAYS]
    treepo("eval", str(model), *sampling, "--out", str(answers))
    store = AnswerStore(answers)
    found = aggregate(store.read(COLUMNS), store.costs())
    machine = {"torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads()}
    figures = {"machine": machine, "results": json.loads(to_json(found))}
    (out / "test_time_sampling.json").write_text(json.dumps(figures, indent=1) + "\n")
    for table in text_tables(found):
        if table.title in WANTED:
            lines = [table.header, ("---",) * len(table.header), *table.rows]
            print(table.title, *(f"| {' | '.join(line[1:])} |" for line in lines), "", sep="\n")


def treepo(*arguments: str) -> None:
    """Run a command in a process of its own."""
    subprocess.run([sys.executable, "-m", "treepo", *arguments], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/test_time"))
    parser.add_argument("--problems", type=int, default=400)
    options = parser.parse_args()
    main(options.out, options.problems)

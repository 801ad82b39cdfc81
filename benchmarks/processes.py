"""One process against two on the built-in task: the same run, the seconds of its steps side by side.

    python benchmarks/processes.py            # on two idle cores; results/processes.json

Each way runs `treepo train` for some steps, through torchrun where there are two processes, in turns; the first step of
each run is left out. Times are medians over all steps of all rounds, ratios those of medians, with the smallest and the
largest ratio of a round. The figures of the runs that are not times are compared, too: they are those of one process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NAMES = ("time/step_s", "time/grow_s", "time/wait_s", "time/entropies_s", "time/pack_s", "time/update_s")
ENGINES = ("engine/steps", "engine/utilisation")


@dataclass(frozen=True)
class Way:
    """So many processes of so many threads each."""

    name: str
    num_processes: int
    num_threads: int
    options: tuple[str, ...] = ()

    def run(self, out: Path, settings: list[str]) -> list[dict[str, float]]:
        """The metrics of a run's steps."""
        launch = [sys.executable, "-m"]
        if self.num_processes > 1:
            launch += ["torch.distributed.run", "--nproc-per-node", str(self.num_processes), "-m"]
        command = [*launch, "treepo", "train", "--out", str(out), *settings, *self.options]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.num_threads)}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][1:]


WAYS = (
    Way("one process, one thread", 1, 1),
    Way("one process, two threads", 1, 2),
    Way("two processes, sharded", 2, 1),
    Way("two processes, copies", 2, 1, ("--processes.shard_size", "1")),
)


def same_run(one: list[dict[str, float]], other: list[dict[str, float]]) -> bool:
    """Whether all figures of two runs but those of time, memory and engines are the same but for rounding."""
    for a, b in zip(one, other, strict=True):
        for name in a:
            if name.startswith(("time/", "memory/")) or name in ENGINES:
                continue
            if abs(a[name] - b[name]) > 1e-3 * max(1.0, abs(a[name])):
                return False
    return True


def main(num_rounds: int, num_steps: int, prompts_per_step: int) -> None:
    """Measure every way in turns, print a row for each and keep the figures."""
    given = {"train.num_steps": num_steps, "train.prompts_per_step": prompts_per_step, "train.save_trees_every": 0}
    given |= {"eval.num_problems": 0, "checkpoint.every": 0}
    settings = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    rounds: list[dict[str, list[dict[str, float]]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(num_rounds):
            rounds.append({way.name: way.run(Path(folder) / f"{i} {way.name}", settings) for way in WAYS})
            print(f"round {i + 1} of {num_rounds}", flush=True)
        environment = json.loads((Path(folder) / f"0 {WAYS[0].name}" / "environment.jsonl").read_text())
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        steps = [step for done in rounds for step in done[way.name][1:]]
        times = {name: statistics.median(step.get(name, 0.0) for step in steps) for name in NAMES}
        ratios = [
            statistics.median(s["time/step_s"] for s in done[WAYS[0].name][1:])
            / statistics.median(s["time/step_s"] for s in done[way.name][1:])
            for done in rounds
        ]
        is_same = all(same_run(done[WAYS[0].name], done[way.name]) for done in rounds)
        row = {
            "way": way.name,
            "times_s": times,
            "speed": statistics.median(ratios),
            "speeds": ratios,
            "is_same": is_same,
        }
        rows.append(row)
        shown = "  ".join(f"{name.removeprefix('time/').removesuffix('_s')} {times[name]:.3f}" for name in NAMES)
        print(f"{way.name:26} {row['speed']:.2f}x ({min(ratios):.2f}-{max(ratios):.2f})  same run {is_same}  {shown}")
    kept = ("python", "torch", "transformers", "platform", "processor", "cores")
    report = {"command": "python benchmarks/processes.py", "machine": {k: environment[k] for k in kept}}
    report |= {"rounds": num_rounds, "settings": given, "ways": rows}
    (RESULTS / "processes.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--problems", type=int, default=32)
    options = parser.parse_args()
    main(options.rounds, options.steps, options.problems)

"""One step off-policy (train.overlap = 1) against a step at a time, over two stand-ins for servers of vLLM.

    python experiments/overlap.py --seeds 0 1 2 --out runs/overlap
    python experiments/overlap.py --scripted --out runs/overlap

The first trains the built-in task, with importance weights in both. The servers are processes of their own that decode
with the embedded engine and wait before each segment. A run that is there already is read, not repeated, and one that
was stopped goes on. Prints a table and writes OUT/overlap.json.

The second gives the wall time of a step where growing and updating take a scripted time, in which this process sleeps,
as it would beside servers with processors of their own and a GPU that updates; it writes OUT/overlap_scripted.json.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.engine.server.stub import StubServer
from tests.learn.test_overlap import CopyEngine, over
from tests.learn.test_trainer import make_trainer
from treepo.bench.common import describe_machine
from treepo.config.load import resolve
from treepo.learn.trainer import Trainer
from treepo.model.policy import load_policy
from treepo.run.model_path import base_model_path

NUM_SERVERS = 2
CURVE = 5
"""Steps over which training accuracy is averaged."""

SETTINGS = {
    "engine.kind": "servers",
    "train.recompute_old_logprobs": "true",
    "train.importance_cap": "2.0",
    "eval.num_problems": "200",
    "eval.at_start": "false",
}


def serve(model: str, delay_s: float, told: Connection) -> None:
    """Serve until this process is ended."""
    torch.set_num_threads(1)
    stub = StubServer(load_policy(model).model)
    stub.delay_s = delay_s
    told.send(stub.url)
    threading.Event().wait()


@contextmanager
def servers(delay_s: float) -> Iterator[list[str]]:
    """The addresses of stand-ins that end with the block."""
    model, context = base_model_path(resolve(), lambda *_: None), multiprocessing.get_context("spawn")
    started, urls = [], []
    try:
        for _ in range(NUM_SERVERS):
            hears, told = context.Pipe(duplex=False)
            started.append(context.Process(target=serve, args=(str(model), delay_s, told), daemon=True))
            started[-1].start()
            urls.append(hears.recv())
        yield urls
    finally:
        for process in started:
            process.terminate()


def run(overlap: int, seed: int, urls: list[str], num_steps: int, folder: Path) -> None:
    """Make a training run, or go on with it."""
    where = ["--servers.urls", json.dumps(urls)]
    if (folder / "config.toml").exists():
        options = ["--resume", str(folder), *where]
    else:
        settings = SETTINGS | {"train.overlap": overlap, "train.seed": seed, "train.num_steps": num_steps}
        given = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        options = [*given, *where, "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "treepo", "train", *options], check=True)


def read(folder: Path) -> dict[str, object]:
    """The figures of one run: accuracies in percent; seconds are medians over the steps after the second."""
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [m for m in log if "time/step_s" in m]
    means = [steps[i : i + CURVE] for i in range(0, len(steps), CURVE)]
    seconds = ("step", "grow", "verify", "update", "sync", "ahead")
    return {
        "curve": [round(100 * sum(m["accuracy"] for m in part) / len(part), 1) for part in means],
        "held_out": round(100 * log[-1]["eval/avg"], 1),
        "mismatch_kl": round(median(m["mismatch/kl"] for m in steps[2:]), 6),
        "median_s": {n: round(median(m.get(f"time/{n}_s", 0.0) for m in steps[2:]), 3) for n in seconds},
    }


def table(figures: dict[str, dict]) -> str:
    """Markdown, a row per run."""
    rows = [
        "| run | training accuracy, means of 5 steps | held out | s/step | waits for trees | update |",
        "|---" * 6 + "|",
    ]
    for name, f in figures.items():
        s = f["median_s"]
        waits = s["grow"] + s["verify"]
        rows.append(
            f"| {name} | {' '.join(map(str, f['curve']))} | {f['held_out']} | {s['step']:.2f} | {waits:.2f} | "
            f"{s['update']:.2f} |"
        )
    return "\n".join(rows)


def main(seeds: list[int], num_steps: int, delay_s: float, out: Path) -> None:
    """Run what is missing, then print and write the figures."""
    figures = {}
    with servers(delay_s) as urls:
        for seed in seeds:
            for overlap in (0, 1):
                folder = out / f"overlap-{overlap}-{seed}"
                if not (folder / "model").is_dir():
                    run(overlap, seed, urls, num_steps, folder)
                figures[f"overlap {overlap}, seed {seed}"] = read(folder)
                write(figures, num_steps, delay_s, out)
    print(table(figures))


def scripted(rounds: int, num_steps: int, out: Path) -> None:
    """Seconds per step of a tiny model, interleaved, for pairs of (seconds to grow, seconds to update)."""
    found: dict[str, dict[str, object]] = {}
    for grow_s, update_s in ((6.0, 6.0), (8.0, 4.0), (4.0, 8.0)):
        seconds: dict[int, list[float]] = {0: [], 1: []}
        for _ in range(rounds):
            for overlap, found_s in seconds.items():
                trainer = slowed(over(make_trainer(), CopyEngine, overlap > 0), grow_s, update_s)
                times = [trainer.step(step).metrics["time/step_s"] for step in range(1, num_steps + 1)]
                trainer.ahead.close()
                # The first step grows its own trees.
                found_s.append(median(times[1:]))
        medians = {str(overlap): round(median(values), 2) for overlap, values in seconds.items()}
        found[f"grow {grow_s:g} s, update {update_s:g} s"] = {
            "median_step_s": medians,
            "ratio": round(medians["0"] / medians["1"], 2),
            "rounds": {str(overlap): [round(value, 2) for value in values] for overlap, values in seconds.items()},
        }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": describe_machine("cpu"), "steps": num_steps, "found": found}, indent=1) + "\n"
    (out / "overlap_scripted.json").write_text(text)
    print(text)


def slowed(trainer: Trainer, grow_s: float, update_s: float) -> Trainer:
    """A trainer whose trees and updates take so much longer."""
    grow, step = trainer.sampler.grow, trainer.updater.optimizer.step

    def slow_grow(*args: Any) -> Any:
        time.sleep(grow_s)
        return grow(*args)

    def slow_step(*args: Any, **kwargs: Any) -> Any:
        time.sleep(update_s / trainer.num_mini_batches)
        return step(*args, **kwargs)

    trainer.sampler.grow = slow_grow  # type: ignore[method-assign]
    trainer.updater.optimizer.step = slow_step  # type: ignore[method-assign]
    return trainer


def write(figures: dict[str, dict], num_steps: int, delay_s: float, out: Path) -> None:
    """Write what is known so far."""
    setup = {"servers": NUM_SERVERS, "delay_s": delay_s, "num_steps": num_steps}
    text = json.dumps({"machine": describe_machine("cpu"), "setup": setup, "runs": figures}, indent=1) + "\n"
    (out / "overlap.json").write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds that a server waits before each segment")
    parser.add_argument("--out", type=Path, default=Path("runs/overlap"))
    parser.add_argument("--scripted", action="store_true", help="measure the wall time of scripted delays instead")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.scripted:
        scripted(options.rounds, min(options.steps, 4), options.out)
        sys.exit()
    main(options.seeds, options.steps, options.delay, options.out)

"""A run of the built-in task, killed at random moments and resumed each time, against the one that was not.

    python experiments/kill_and_resume.py --kills 30 --out runs/kill_and_resume

Every life is a process of `treepo train` that gets SIGKILL: one in four at any time of its first ten seconds, the
others within two seconds of the first step that they complete. When a run ends before all kills are spent, another seed
goes on. At last all bits of the last checkpoint (weights, moments, schedule, random generators), of model/ and of the
trees kept, and all metrics but times have to be those of the run of the same seed that was left alone. Writes
OUT/kill_and_resume.json. About five minutes.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

OPTIONS = {
    "train.num_steps": 24,
    "train.prompts_per_step": 8,
    "train.save_trees_every": 5,
    "checkpoint.every": 2,
    "eval.num_problems": 16,
    "eval.every": 6,
}
LONGEST_START_S, LONGEST_AFTER_S = 10.0, 2.0
"""Seconds within which a process is killed after it was started, or after its first step."""


def main(kills: int, out: Path) -> None:
    """Kill, resume and compare until all kills are spent."""
    rng = random.Random(0)
    report = []
    while (spent := sum(len(run["killed_after_step"]) for run in report)) < kills:
        seed = len(report)
        whole, killed = out / f"whole-{seed}", out / f"killed-{seed}"
        train(seed, whole).communicate()
        report.append({"seed": seed, "killed_after_step": kill_and_resume(seed, killed, kills - spent, rng)})
        report[-1] |= {"differences": differences(whole, killed)}
        print(report[-1], flush=True)
    (out / "kill_and_resume.json").write_text(json.dumps({"options": OPTIONS, "runs": report}, indent=1) + "\n")


def train(seed: int, folder: Path) -> "subprocess.Popen[bytes]":
    """A process that begins the run in a folder, or goes on with it."""
    if (folder / "config.toml").exists():
        args = ["--resume", str(folder)]
    else:
        settings = [text for name, value in OPTIONS.items() for text in (f"--{name}", str(value))]
        args = ["--out", str(folder), "--train.seed", str(seed), *settings]
    return subprocess.Popen([sys.executable, "-m", "treepo", "train", *args], stdout=subprocess.PIPE)


def kill_and_resume(seed: int, folder: Path, kills: int, rng: random.Random) -> list[int]:
    """The steps that had been completed when the run was killed (-1: none), until it came to its end."""
    killed = []
    while True:
        process = train(seed, folder)
        if len(killed) < kills:
            wait(process, rng)
            if process.poll() is None:
                process.kill()
                killed.append(num_lines(folder) - 1)
        process.communicate()
        if process.returncode == 0:
            return killed
        if process.returncode != -9:
            raise RuntimeError(f"exit code {process.returncode} in {folder}")


def wait(process: "subprocess.Popen[bytes]", rng: random.Random) -> None:
    """Until the moment to kill, or until the process has ended."""
    longest = LONGEST_START_S
    if rng.random() >= 0.25:
        assert process.stdout is not None
        next((line for line in process.stdout if line.startswith(b"step")), None)
        longest = LONGEST_AFTER_S
    end = time.monotonic() + rng.uniform(0, longest)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)


def num_lines(folder: Path) -> int:
    """Whole lines of a run's metrics."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two runs."""
    found = [] if figures(one) == figures(other) else ["metrics.jsonl"]
    for path in sorted(p for kind in ("checkpoints", "model", "trees") for p in (one / kind).rglob("*") if p.is_file()):
        twin = other / path.relative_to(one)
        if not twin.exists() or (path.name != "manifest.json" and content(twin) != content(path)):
            found.append(str(path.relative_to(one)))
    return found


def content(path: Path) -> object:
    """The bits of a file; of safetensors those of each tensor, since the order in their header varies."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {
            name: (t.dtype, t.shape, t.reshape(-1).view(torch.uint8).numpy().tobytes()) for name, t in tensors.items()
        }
    return path.read_bytes()


def figures(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run but for times and memory."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    left_out = "time/", "memory/"
    return [{name: value for name, value in line.items() if not name.startswith(left_out)} for line in lines]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/kill_and_resume"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    main(given.kills, given.out)

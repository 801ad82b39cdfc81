"""Verifying published answers, and hostile ones, through the pool with `MathVerifier`.

    OMP_NUM_THREADS=1 python benchmarks/verifying.py --minerva FILE --olympiad FILE   # results/verifying.json
    python benchmarks/verifying.py --hostile 500 --seed 1

The reference solutions of GSM8K and MATH-500 (in the folder TREEPO_DATA) should all be right. With answers shuffled
between problems, they should be right as often as the two answers are equal. The cases, other projects' pairs, and
known answers respelled and changed (tests/verify/cases, tests/verify/respelling.py) should be judged as a careful
teacher does; Minerva's and OlympiadBench's answers come from files as Qwen2.5-Math ships them. Hostile answers
(tests/verify/hostile.py) should all be wrong; each may take a second. benchmarks/graders.py compares with others.
"""

import argparse
import contextlib
import json
import platform
import re
import resource
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.verify.hostile import hostile_answers
from tests.verify.published import all_rows, gsm8k_solutions, math500_solutions, shuffled
from treepo.data.problem import Verdict
from treepo.verify.math import MathVerifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings

RESULTS = Path(__file__).parent / "results"
NUM_SHUFFLES = 3
HOSTILE_LIMIT_S = 1.0
SHOWN = 120


@dataclass(frozen=True)
class Case:
    """Pairs of (response, ground truth), and which of them are expected to be right."""

    name: str
    pairs: list[tuple[str, str]]
    expected: list[bool]


def published(minerva: Path | None, olympiad: Path | None) -> list[Case]:
    """All cases but the hostile answers."""
    cases = []
    gsm8k = gsm8k_solutions("gsm8k_train.jsonl") + gsm8k_solutions("gsm8k_test.jsonl")
    for name, pairs in (("GSM8K", gsm8k), ("MATH-500", math500_solutions())):
        cases.append(Case(f"{name} solutions", pairs, [True] * len(pairs)))
        for seed in range(NUM_SHUFFLES):
            mixed = shuffled(pairs, seed)
            expected = [known == answer for (_, known), (_, answer) in zip(pairs, mixed, strict=True)]
            cases.append(Case(f"{name} shuffled {seed}", mixed, expected))
    rows = all_rows(minerva, olympiad)
    for group in dict.fromkeys(row.group for row in rows):
        chosen = [row for row in rows if row.group == group]
        cases.append(Case(group, [(row.response, row.answer) for row in chosen], [row.correct for row in chosen]))
    return cases


class Peak(threading.Thread):
    """The largest resident memory of any worker, in MiB, sampled every 50 ms (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.05):
            for path in Path("/proc/self/task").glob("*/children"):
                for pid in path.read_text().split():
                    # A worker may end between the two.
                    with contextlib.suppress(OSError):
                        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                        self.mib = max(self.mib, int(found[1]) // 1024 if found else 0)


def measure(case: Case, settings: VerifierPoolSettings) -> dict[str, Any]:
    """Judge a case with workers that are already running."""
    peak = Peak()
    with VerifierPool(MathVerifier(), settings) as pool:
        pool.verify([("\\boxed{1}", "1")] * 100)
        peak.start()
        start, verdicts, slowest = time.perf_counter(), list[Verdict](), 0.0
        for first in range(0, len(case.pairs), 1000):
            began = time.perf_counter()
            verdicts += pool.verify(case.pairs[first : first + 1000])
            slowest = max(slowest, time.perf_counter() - began)
        seconds = time.perf_counter() - start
        problems = pool.crashes
        peak.is_over.set()
    rows = zip(case.pairs, case.expected, verdicts, strict=True)
    return {
        "case": case.name,
        "answers": len(case.pairs),
        "right": sum(verdict.correct == 1 for verdict in verdicts),
        "expected_right": sum(case.expected),
        "outcomes": dict(Counter(verdict.outcome.value for verdict in verdicts)),
        "per_second": len(verdicts) / seconds,
        "slowest_thousand_s": slowest,
        "worker_mib": peak.mib,
        "problems": problems,
        "otherwise": [
            {
                "response": response[-SHOWN:],
                "known": known,
                "right": verdict.correct == 1,
                "given": verdict.extracted_answer,
            }
            | {"outcome": verdict.outcome.value}
            for (response, known), expected, verdict in rows
            if (verdict.correct == 1) != expected
        ],
    }


def describe() -> dict[str, str | int]:
    """Versions, the processor, and the number of workers."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    processor = cpus[0].partition(":")[2].strip() if cpus else platform.machine()
    machine = {"python": platform.python_version(), "system": platform.system(), "processor": processor}
    return machine | {"mpmath": version("mpmath"), "workers": VerifierPoolSettings().workers_wanted(1000)}


def main(num_hostile: int, seed: int, minerva: Path | None, olympiad: Path | None) -> None:
    """Measure every case, print a row for each and write the results."""
    drawn = list(hostile_answers(num_hostile, seed))
    hostile = Case(f"hostile, seed {seed}", [d[1:] for d in drawn], [False] * len(drawn))
    rows = []
    print(f"{'case':22} {'answers':>8} {'right':>6} {'expected':>9} {'per s':>8}  outcomes")
    for case in [*published(minerva, olympiad), hostile]:
        row = measure(
            case, VerifierPoolSettings(cpu_limit_s=HOSTILE_LIMIT_S) if case is hostile else VerifierPoolSettings()
        )
        rows.append(row)
        outcomes = ", ".join(f"{name} {count}" for name, count in row["outcomes"].items())
        counts = f"{row['answers']:8} {row['right']:6} {row['expected_right']:9} {row['per_second']:8.0f}"
        print(f"{case.name:22} {counts}  {outcomes}", flush=True)
        for other in row["otherwise"]:
            print(f"    {other['response']!r} for {other['known']!r}: {other['outcome']}")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    peaks = {"pool with all answers": own, "largest worker": max(row["worker_mib"] for row in rows)}
    print(f"peak memory in MiB: {peaks}")
    files = "".join(f" --{name} ..." for name, path in (("minerva", minerva), ("olympiad", olympiad)) if path)
    command = f"python benchmarks/verifying.py{files} --hostile {num_hostile} --seed {seed}"
    report = {"command": command, "machine": describe(), "peak_mib": peaks, "cases": rows}
    (RESULTS / "verifying.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minerva", type=Path, help="minerva_math/test.jsonl as Qwen2.5-Math ships it")
    parser.add_argument("--olympiad", type=Path, help="olympiadbench/test.jsonl as Qwen2.5-Math ships it")
    arguments = parser.parse_args()
    main(arguments.hostile, arguments.seed, arguments.minerva, arguments.olympiad)

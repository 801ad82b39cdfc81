"""A batch of 512 answers of which 64 are hostile, judged by `MathVerifier` in the pool's default settings.

    OMP_NUM_THREADS=1 python benchmarks/hostile_batch.py      # a minute on two cores; results/hostile_batch.json

The others are reference solutions of MATH-500 (in the folder TREEPO_DATA), of which all should be right. Hostile are
four of each kind of tests/verify/hostile.py, with another seed per batch; none should be right. Workers are running
when the clock starts.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.verify.hostile import hostile_answers
from tests.verify.published import math500_solutions
from treepo.data.problem import Outcome
from treepo.verify.math import MathVerifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings

RESULTS = Path(__file__).parent / "results"
BATCH_SIZE = 512
NUM_OF_A_KIND = 4


def hostile_pairs(seed: int) -> list[tuple[str, str, str]]:
    """(kind, response, ground truth), the same number of each kind."""
    kept: dict[str, list[tuple[str, str, str]]] = {}
    for drawn in hostile_answers(5000, seed):
        kept.setdefault(drawn[0], []).append(drawn)
    return [drawn for kind in sorted(kept) for drawn in kept[kind][:NUM_OF_A_KIND]]


def measure(pool: VerifierPool, seed: int) -> dict[str, Any]:
    """Judge one batch."""
    rng = random.Random(seed)
    hostile = hostile_pairs(seed)
    solutions = rng.sample(math500_solutions(), BATCH_SIZE - len(hostile))
    rows = [("", *pair) for pair in solutions] + hostile
    rng.shuffle(rows)
    start = time.perf_counter()
    verdicts = pool.verify([(response, known) for _, response, known in rows])
    seconds = time.perf_counter() - start
    judged = list(zip(rows, verdicts, strict=True))
    lost = Counter(kind for (kind, *_), v in judged if v.outcome in {Outcome.TIMEOUT, Outcome.CRASHED})
    return {
        "seed": seed,
        "answers": len(rows),
        "hostile": len(hostile),
        "seconds": seconds,
        "timeouts": sum(v.outcome is Outcome.TIMEOUT for v in verdicts),
        "crashes": sum(v.outcome is Outcome.CRASHED for v in verdicts),
        "lost_by_kind": dict(lost),
        "solutions_right": sum(v.correct == 1 for (kind, *_), v in judged if not kind),
        "hostile_right": sum(v.correct == 1 for (kind, *_), v in judged if kind),
    }


def main(num_batches: int) -> None:
    """Measure batches, print a row for each and write the results."""
    settings = VerifierPoolSettings()
    rows = []
    with VerifierPool(MathVerifier(), settings) as pool:
        pool.verify([("\\boxed{1}", "1")] * 100)
        for seed in range(num_batches):
            rows.append(measure(pool, seed))
            print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python benchmarks/hostile_batch.py",
        "workers": settings.workers_wanted(BATCH_SIZE),
        "cpu_limit_s": settings.cpu_limit_s,
        "batches": rows,
    }
    (RESULTS / "hostile_batch.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=3)
    main(parser.parse_args().batches)

"""Right and wrong answers judged by `MathVerifier` and by other projects' graders: who errs how often, and how fast.

    OMP_NUM_THREADS=1 PYTHONPATH=/path/to/qwen python benchmarks/graders.py --grader qwen=grader:math_equal \
        --minerva .../minerva_math/test.jsonl --olympiad .../olympiadbench/test.jsonl

math-verify is taken from its package. Other graders are functions (given, known) of modules that PYTHONPATH makes
importable: `--grader NAME=MODULE:FUNCTION`. They judge the content of the last box, as `MathVerifier` finds it. A false
positive is a wrong answer judged right, a false negative a right one judged wrong; an answer that a grader raises an
error or takes too long for is judged wrong. Results: results/graders.json.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.other_graders import MathVerify, OtherGrader, math_verify_says
from tests.verify.published import Row, all_rows, gsm8k_solutions, math500_solutions
from treepo.data.problem import Outcome, Verdict
from treepo.verify.base import Verifier
from treepo.verify.math import MathVerifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings

RESULTS = Path(__file__).parent / "results" / "graders.json"
TIME_LIMIT_S = 5.0
NUM_REPEATS = 5
SHOWN = 20
EVERY = 3
"""Of the sets' known answers, every third is respelled: some graders take a tenth of a second."""

BOXES = "the box itself"


def judge(grader: Verifier, rows: list[Row]) -> list[Verdict]:
    """The verdicts of one worker."""
    settings = VerifierPoolSettings(num_workers=1, cpu_limit_s=TIME_LIMIT_S)
    with VerifierPool(grader, settings) as pool:
        return pool.verify([(row.response, row.answer) for row in rows])


def table(name: str, rows: list[Row], verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Per group of rows: how many are right and wrong, and how many the grader judges otherwise."""
    groups: dict[str, list[tuple[Row, Verdict]]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        groups.setdefault(row.group, []).append((row, verdict))
    return [_summary(name, group, judged) for group, judged in groups.items()]


def _summary(name: str, group: str, judged: list[tuple[Row, Verdict]]) -> dict[str, Any]:
    otherwise = [(row, verdict) for row, verdict in judged if (verdict.correct == 1) != row.correct]
    return {
        "grader": name,
        "group": group,
        "right": sum(row.correct for row, _ in judged),
        "wrong": sum(not row.correct for row, _ in judged),
        "false_negatives": sum(row.correct for row, _ in otherwise),
        "false_positives": sum(not row.correct for row, _ in otherwise),
        "no_verdict": sum(verdict.outcome in (Outcome.TIMEOUT, Outcome.CRASHED) for _, verdict in judged),
        "otherwise": [f"{row.kind}: {row.response[-150:]} for {row.answer}" for row, _ in otherwise[:SHOWN]],
    }


def throughput() -> dict[str, Any]:
    """Answers per second of processor time, in this process, ours and math-verify's by turns."""
    sets = {"GSM8K": gsm8k_solutions("gsm8k_test.jsonl")[:400], "MATH-500": math500_solutions()[:400]}
    graders: dict[str, Callable[[str, str], object]] = {"MathVerifier": MathVerifier(), "math-verify": math_verify_says}
    measured = {}
    for name, pairs in sets.items():
        rates: dict[str, list[float]] = {grader: [] for grader in graders}
        for repeat in range(NUM_REPEATS + 1):
            for grader, says in graders.items():
                start = time.process_time()
                for response, known in pairs:
                    says(response, known)
                # The first turn imports and warms up.
                if repeat:
                    rates[grader].append(len(pairs) / (time.process_time() - start))
        measured[name] = {
            grader: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
            for grader, values in rates.items()
        }
    return measured


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """The table in Markdown: a row per group, false negatives and false positives of each grader."""
    graders = list(dict.fromkeys(result["grader"] for result in results))
    yield f"| answers | right | wrong | {' | '.join(graders)} |"
    yield "|---|---|---|" + "---|" * len(graders)
    for group in dict.fromkeys(result["group"] for result in results):
        of = {result["grader"]: result for result in results if result["group"] == group}
        first = next(iter(of.values()))
        cells = [f"{of[g]['false_negatives']} / {of[g]['false_positives']}" if g in of else "" for g in graders]
        yield f"| {group} | {first['right']} | {first['wrong']} | {' | '.join(cells)} |"


def describe() -> dict[str, str]:
    """Versions and the processor."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    processor = cpus[0].partition(":")[2].strip() if cpus else platform.machine()
    machine = {"python": platform.python_version(), "system": platform.system(), "processor": processor}
    return machine | {name: version(name) for name in ("math-verify", "latex2sympy2-extended", "sympy")}


def main(others: list[str], minerva: Path | None, olympiad: Path | None) -> None:
    """Let every grader judge all rows, print the table and write the results."""
    rows = all_rows(minerva, olympiad, EVERY)
    graders: dict[str, Verifier] = {"MathVerifier": MathVerifier(), "math-verify": MathVerify()}
    graders |= {name: OtherGrader(function) for name, _, function in (other.partition("=") for other in others)}
    results = []
    for name, grader in graders.items():
        # The others do not look for boxes themselves.
        asked = [row for row in rows if not isinstance(grader, OtherGrader) or row.kind != BOXES]
        start = time.perf_counter()
        results += table(name, asked, judge(grader, asked))
        print(f"{name}: {len(asked)} answers in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(lines(results)))
    rates = throughput()
    print(json.dumps(rates, indent=1))
    command = "python benchmarks/graders.py" + "".join(f" --grader {other}" for other in others)
    command += "".join(f" --{name} ..." for name, path in (("minerva", minerva), ("olympiad", olympiad)) if path)
    report = {"command": command, "machine": describe(), "throughput": rates, "results": results}
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grader", action="append", default=[], metavar="NAME=MODULE:FUNCTION")
    parser.add_argument("--minerva", type=Path, help="minerva_math/test.jsonl as Qwen2.5-Math ships it")
    parser.add_argument("--olympiad", type=Path, help="olympiadbench/test.jsonl as Qwen2.5-Math ships it")
    arguments = parser.parse_args()
    main(arguments.grader, arguments.minerva, arguments.olympiad)

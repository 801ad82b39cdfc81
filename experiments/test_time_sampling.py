"""Tree sampling at test time against sequential sampling, by tokens and by time, on both built-in tasks.

    OMP_NUM_THREADS=1 python -m experiments.test_time_sampling         # and --task, --seeds, --quick

The paper's table 2 and its scaling figure (arXiv 2508.17445, section 4.3): trees that fork in b = 2, 4, 8, with as many
first children, against as many independent answers. One model per task, from `--steps` steps of its GRPO recipe, so
that it is neither at the start nor perfect; the same held-out problems for all; five seeds of the sampling. For 4, 8
and 16 answers per problem: avg, maj, tokens decoded and forwarded, seconds. Seconds of the processor can be compared on
a machine that does other things. Intervals are 95% t intervals over seeds, of paired differences to sequential sampling
with the same seed; they say how far sampling scatters on these problems, not how far other problems differ. What was
measured before is read from OUT, not repeated.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

import numpy as np

from experiments.paired import recipe_path, rounded
from experiments.paired_stats import Point, at_cost, markdown, mean_interval, signed, with_tables
from treepo.bench.common import describe_machine
from treepo.config.load import read_recipe, resolve
from treepo.config.schema import Config
from treepo.engine.base import SamplingParams
from treepo.evaluate.answering import answer_records
from treepo.evaluate.estimates import majority
from treepo.grow import GrowthRules, InitialFork, TreeSampler
from treepo.run.build import Run, build_run
from treepo.run.sampler import growth_rules
from treepo.utils.io import replace_text
from treepo.utils.numeric import derive_seed
from treepo.verify.rewards import verify_trees

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results" / "test_time_sampling.json"
PLOT = ROOT / "docs" / "plots" / "test_time_sampling.png"
PAGE = ROOT / "docs" / "evidence.md"
TASKS = ("chain_sums", "start_sums")
WIDTHS = (4, 8, 16)
SEQUENTIAL = "sequential"
METHODS: dict[str, tuple[int, int]] = {
    "b = 2": (2, 2),
    "b = 4": (4, 4),
    "b = 8": (8, 8),
    "b = 2, 8 first children": (2, 8),
}
"""Children of a path that forks, children of the prompt."""
COSTS = {"decoded": "tokens decoded", "forwarded": "tokens forwarded", "cpu_s": "s of processor", "wall_s": "s"}

Curves = dict[str, dict[str, list[Point]]]
"""method -> seed -> a point per width: costs per problem, avg and maj."""


def trained(task: str, steps: int) -> Run:
    """A run of the task's GRPO recipe after so many steps, seed 0."""
    run = build_run(resolve(read_recipe(recipe_path(f"{task}_grpo"))), lambda *_: None)
    for step in range(1, steps + 1):
        run.trainer.step(step)
    return run


def rules_of(method: str, width: int, task: str, run: Run) -> GrowthRules:
    """The rules of trees with so many leaves, in the segments of the task's treepo recipe."""
    config: Config = resolve(read_recipe(recipe_path(f"{task}_treepo")))
    if method == SEQUENTIAL:
        return GrowthRules.star(width, config.tree.max_response_tokens, run.policy.decode, run.task.answers)
    children, first = METHODS[method]
    fork = InitialFork(min(first, width), min(first, width))
    config = replace(config, tree=replace(config.tree, width=width, num_children=children), initial_fork=fork)
    return growth_rules(config, run.policy.decode, run.task.answers)


def measure(run: Run, rules: GrowthRules, width: int, num_problems: int, seed: int) -> Point:
    """Answers to the first held-out problems: costs per problem, avg and maj."""
    problems, engine = run.task.eval_problems(num_problems), run.trainer.engine
    sampler = TreeSampler(engine, rules, SamplingParams())
    before, cpu, wall = engine.counters, process_time(), perf_counter()
    grown = list(sampler.grow(problems, derive_seed("test time", seed)))
    cpu, wall, used = process_time() - cpu, perf_counter() - wall, engine.counters - before
    verified = verify_trees(run.task, [problems[i] for i, _ in grown], [tree for _, tree in grown], run.policy.decode)
    records = answer_records(run.task, verified, run.policy.decode, model="", setting="")
    answers: dict[str, list[tuple[float, str | None]]] = {}
    for record in records:
        answers.setdefault(record.problem, []).append((record.correct, record.vote))
    votes = [majority(np.array([c for c, _ in own]), [v for _, v in own]) for own in answers.values()]
    num = len(problems)
    costs = {"decoded": used.num_decoded, "forwarded": used.num_decoded + used.num_prefilled}
    costs |= {"cpu_s": cpu, "wall_s": wall}
    scores = {"avg": fmean(r.correct for r in records), "maj": fmean(votes)}
    return {"width": width, **rounded({name: value / num for name, value in costs.items()}), **rounded(scores)}


def curves_of(task: str, seeds: Sequence[int], options: argparse.Namespace) -> Curves:
    """All points of a task; what OUT holds is not measured again."""
    path: Path = options.out / f"{task}-{options.steps}-{options.problems}.json"
    known: dict[str, Point] = json.loads(path.read_text()) if path.is_file() else {}
    methods, run = (SEQUENTIAL, *METHODS), None
    # Methods take turns, so that a load that comes and goes meets all of them.
    turns = [(seed, width, method) for seed in seeds for width in options.widths for method in methods]
    for seed, width, method in turns:
        key = f"{method}, {width}, {seed}"
        if key in known:
            continue
        if run is None:
            run = trained(task, options.steps)
            with run.trainer.serving():
                measure(run, rules_of(SEQUENTIAL, 4, task, run), 4, 8, 0)
        with run.trainer.serving():
            known[key] = measure(run, rules_of(method, width, task, run), width, options.problems, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(known) + "\n")
        print(task, key, known[key], flush=True)
    return {
        method: {f"{seed}": [known[f"{method}, {width}, {seed}"] for width in options.widths] for seed in seeds}
        for method in methods
    }


def table(curves: Curves) -> str:
    """Markdown: each method at its most answers, beside sequential sampling of as many."""

    def values(method: str, name: str) -> list[float]:
        return [points[-1][name] for points in curves[method].values()]

    def score(method: str, name: str) -> str:
        own, base = values(method, name), values(SEQUENTIAL, name)
        shown = f"{100 * fmean(own):.1f}"
        if method == SEQUENTIAL:
            return shown
        return f"{shown} ({signed(*mean_interval([100 * (a - b) for a, b in zip(own, base, strict=True)]))})"

    def cost(method: str, name: str) -> str:
        ratios = [a / b for a, b in zip(values(method, name), values(SEQUENTIAL, name), strict=True)]
        middle, half = mean_interval(ratios)
        return f"{fmean(values(method, name)):,.4g}" + ("" if method == SEQUENTIAL else f": {middle:.2f} ± {half:.2f}")

    width = next(iter(curves[SEQUENTIAL].values()))[-1]["width"]
    heads = [f"{width:g} answers", "avg, %", f"maj@{width:g}, %", *(f"{unit} / problem" for unit in COSTS.values())]
    rows = [[m, score(m, "avg"), score(m, "maj"), *(cost(m, name) for name in COSTS)] for m in curves]
    return markdown(heads, rows)


def at_equal_cost(curves: Curves) -> str:
    """Markdown: maj where a problem has cost as much as 8 sequential answers (the middle width), by each cost."""

    def middle(name: str) -> float:
        return fmean(points[len(points) // 2][name] for points in curves[SEQUENTIAL].values())

    def cell(method: str, name: str) -> str:
        own, base = (
            [100 * at_cost(points, name, middle(name), "maj") for points in curves[m].values()]
            for m in (method, SEQUENTIAL)
        )
        if method == SEQUENTIAL:
            return f"{fmean(own):.1f}"
        return f"{fmean(own):.1f} ({signed(*mean_interval([a - b for a, b in zip(own, base, strict=True)]))})"

    heads = ["maj, %, at equal cost", *(f"{middle(name):,.3g} {unit} / problem" for name, unit in COSTS.items())]
    return markdown(heads, [[method, *(cell(method, name) for name in COSTS)] for method in curves])


def draw(found: Mapping[str, Curves], path: Path) -> None:
    """avg (dashed) and maj over tokens decoded, and maj over seconds of the processor; a row per task."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - figures only

    figure = Figure(figsize=(9, 3.4 * len(found)), layout="constrained")
    rows = figure.subplots(len(found), 2, squeeze=False)
    for axes, (task, curves) in zip(rows, found.items(), strict=True):
        for number, (method, of_seed) in enumerate(curves.items()):
            points = list(of_seed.values())

            def mean(name: str, points: list[list[Point]] = points) -> list[float]:
                return [fmean(own[i][name] for own in points) for i in range(len(points[0]))]

            def percent(name: str, points: list[list[Point]] = points) -> tuple[list[float], list[float]]:
                parts = [mean_interval([100 * own[i][name] for own in points]) for i in range(len(points[0]))]
                return [middle for middle, _ in parts], [half for _, half in parts]

            for ax, cost in zip(axes, ("decoded", "cpu_s"), strict=True):
                middle, half = percent("maj")
                ax.errorbar(mean(cost), middle, half, fmt="o-", color=f"C{number}", label=f"{method}, maj", capsize=2)
                ax.set_xlabel(f"{COSTS[cost]} / problem")
                ax.set_xscale("log")
                ax.grid(alpha=0.3, which="both")
            axes[0].plot(mean("decoded"), percent("avg")[0], "--", color=f"C{number}", alpha=0.6)
        axes[0].set_ylabel(f"{task}, % (dashed: avg)")
    figure.axes[1].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(options: argparse.Namespace) -> None:
    """Measure what is missing, print the tables, and write results and figure unless it is a quick look."""
    found: dict[str, Curves] = {}
    for task in options.tasks:
        found[task] = curves_of(task, options.seeds, options)
    shown = "\n\n".join(f"### {task}\n\n{table(own)}\n\n{at_equal_cost(own)}" for task, own in found.items())
    print(shown)
    if options.quick:
        return
    about: dict[str, Any] = describe_machine("cpu") | {
        "command": "python -m experiments.test_time_sampling",
        **{name: getattr(options, name) for name in ("steps", "problems", "seeds")},
    }
    RESULTS.write_text(json.dumps({"machine": about, "curves": found}, indent=1) + "\n")
    draw(found, PLOT)
    PAGE.write_text(with_tables(PAGE.read_text(), "test_time_sampling", shown))


def parsed() -> argparse.Namespace:
    """What was typed; --quick is one seed of the smallest trees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=8, help="training steps of the model")
    parser.add_argument("--problems", type=int, default=64, help="held-out problems")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="answers per problem")
    parser.add_argument("--out", type=Path, default=Path("runs/test_time"), help="where points are kept")
    parser.add_argument("--quick", action="store_true", help="two small measurements per method, no results")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps, options.problems, options.widths = [0, 1], 1, 4, (4, 8)
    return options


if __name__ == "__main__":
    main(parsed())

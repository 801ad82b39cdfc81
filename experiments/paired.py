"""Paired training runs: named variants of a recipe, each with the same seeds, measured on the same held-out problems.

The scripts of docs/evidence.md say which variants; what they share is here. Each run has a process of its own, one at a
time, the variants of a seed one after another. A run that is there is read, whichever script made it; one that was
interrupted is made again. Evaluations do not count as time. Seconds of the processor are those of all threads of the
process: on a machine that does other things they can be compared where seconds on the clock cannot.

    python -m experiments.methods --seeds 0 1 2 3 4 --out runs/paired       # and --task, --steps, --every, --quick
"""

import argparse
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

from experiments.paired_stats import COSTS, Curves, Point, draw, tables, with_tables
from treepo.bench.common import describe_machine
from treepo.config.load import read_recipe, resolve
from treepo.config.schema import Config
from treepo.evaluate.answering import Validation
from treepo.run.build import Run, build_run
from treepo.utils.io import replace_text
from treepo.utils.numeric import derive_seed, digest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
MEANS = ("entropy", "completions/length/mean", "accuracy", "plan/gain", "plan/is_star")
"""Metrics of steps whose means are kept beside what a run costs."""


@dataclass(frozen=True)
class Variant:
    """A recipe of the task, "treepo" or "grpo", with some settings changed."""

    recipe: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How long runs are, and how they are measured after every `every` steps.

    samples: answers at temperature 1 to each of `problems` held-out problems, the task's first `skipped` left out.
    """

    steps: int = 8
    every: int = 2
    problems: int = 32
    samples: int = 16
    skipped: int = 0


QUICK = Plan(steps=2, every=1, problems=4, samples=2)


@dataclass(frozen=True)
class RunSpec:
    """All that a run's figures depend on, beside the code."""

    recipe: str
    settings: dict[str, dict[str, Any]]
    seed: int
    plan: Plan

    @property
    def name(self) -> str:
        """A file name of its own."""
        own = digest(json.dumps(asdict(self), sort_keys=True)).hex()
        return f"{self.recipe}-{own}-{self.seed}.json"


VariantsOf = Callable[[Config], Mapping[str, Variant]]
"""The variants of an experiment, the one that others are compared with first; given the settings of the task's treepo
recipe."""


def main(name: str, variants_of: VariantsOf, description: str | None, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """The command line of an experiment: run what is missing, print tables, write results and figure, and put the
    tables into docs/evidence.md where it has a place for them."""
    options = parsed(description, seeds)
    plan = QUICK if options.quick else Plan(options.steps, options.every, options.problems, options.samples)
    seeds = options.seeds[:1] if options.quick else options.seeds
    layer = baseline_layer(options.task)
    config = resolve(read_recipe(recipe_path(f"{options.task}_treepo")), layer)
    specs = {
        label: [run_spec(options.task, variant, layer, seed, plan) for seed in seeds]
        for label, variant in variants_of(config).items()
        if label in options.variants or not options.variants
    }
    curves = run_all(specs, options.out, plan)
    shown = tables(curves, options.target)
    print(shown)
    if options.quick:
        return
    command = f"python -m experiments.{name} --task {options.task} --seeds {' '.join(map(str, seeds))}"
    command += f" --variants {shlex.join(options.variants)}" if options.variants else ""
    found = {"machine": describe_machine("cpu") | {"command": command}, "plan": asdict(plan), "baseline": layer}
    file = f"{name}-{options.task}"
    RESULTS.joinpath(f"{file}.json").write_text(json.dumps(found | {"curves": curves}, indent=1) + "\n")
    draw(curves, ROOT / "docs" / "plots" / f"{file}.png")
    page = ROOT / "docs" / "evidence.md"
    page.write_text(with_tables(page.read_text(), file, shown))


def parsed(description: str | None, seeds: Sequence[int]) -> argparse.Namespace:
    """What was typed."""
    default = Plan()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--task", default="chain_sums", help="its recipes are recipes/TASK_grpo.toml and TASK_treepo.toml"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--variants", nargs="+", default=[], help="rows of the table; all if not given")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--every", type=int, default=default.every, help="steps between evaluations")
    parser.add_argument("--problems", type=int, default=default.problems, help="held-out problems")
    parser.add_argument("--samples", type=int, default=default.samples, help="answers to each")
    parser.add_argument("--target", type=float, default=0.5, help="accuracy that the cost is given for")
    parser.add_argument("--out", type=Path, default=Path("runs/paired"), help="where runs are kept")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, nothing written but the runs")
    return parser.parse_args()


def recipe_path(name: str) -> Path:
    """A recipe of the repository."""
    return ROOT / "recipes" / f"{name}.toml"


def baseline_layer(task: str) -> dict[str, dict[str, Any]]:
    """Learning rate, width and problems per step that experiments/baseline.py chose for GRPO; none where it was not
    run, so that the recipes' hold."""
    path = RESULTS / f"baseline-{task}.json"
    return json.loads(path.read_text())["chosen"] if path.is_file() else {}


def star(width: int) -> dict[str, dict[str, Any]]:
    """Settings of sequential sampling in one segment beside which the recipe's tree has its own."""
    return {"tree": {"width": width, "num_children": width}, "initial_fork": {"low": width, "high": width}}


def merged(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sections of settings, later ones over earlier ones."""
    sections = {section: {} for layer in layers for section in layer}
    return {section: {k: v for layer in layers for k, v in layer.get(section, {}).items()} for section in sections}


def run_spec(task: str, variant: Variant, layer: Mapping[str, Mapping[str, Any]], seed: int, plan: Plan) -> RunSpec:
    """The run of a variant with a seed, over the layer of the baseline."""
    width = layer.get("tree", {}).get("width")
    forks = star(width) if variant.recipe == "grpo" and width else {}
    return RunSpec(f"{task}_{variant.recipe}", merged(layer, forks, variant.settings), seed, plan)


def run_all(specs: Mapping[str, Sequence[RunSpec]], out: Path, plan: Plan) -> Curves:
    """label -> seed -> the points of its run. The untrained model is the same for all, and is measured once."""
    first = next(iter(specs.values()))[0]
    (untrained,) = in_own_process(replace(first, seed=0, plan=replace(plan, steps=0)), out)
    curves: Curves = {label: {} for label in specs}
    for of_seed in zip(*specs.values(), strict=True):
        for label, spec in zip(specs, of_seed, strict=True):
            points = in_own_process(spec, out)
            curves[label][str(spec.seed)] = [untrained, *points]
            print(f"{label}, seed {spec.seed}: {points[-1]}", flush=True)
    return curves


def in_own_process(spec: RunSpec, out: Path) -> list[Point]:
    """The points of a run, read if they are there, else made in a process forked from one that has imported this."""
    path = out / spec.name
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        context = get_context("forkserver")
        context.set_forkserver_preload(["experiments.paired"])
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            points = pool.submit(run_one, spec).result()
        replace_text(path, json.dumps({"spec": asdict(spec), "points": points}) + "\n")
    return json.loads(path.read_text())["points"]


def run_one(spec: RunSpec) -> list[Point]:
    """Train and measure: a point after every so many steps, or the untrained model alone if there are none."""
    config = resolve(read_recipe(recipe_path(spec.recipe)), spec.settings, {"train": {"seed": spec.seed}})
    if spec.plan.steps == 0:
        run = build_run(config, lambda *_: None)
        return [{"step": 0, **dict.fromkeys(COSTS, 0.0), **accuracies(run, spec.plan)}]
    # A step that does not count: what is built and loaded when it is first needed.
    small = replace(config, train=replace(config.train, prompts_per_step=4))
    build_run(small, lambda *_: None).trainer.step(1)
    run = build_run(config, lambda *_: None)
    spent, points, means = dict.fromkeys(COSTS, 0.0), [], []
    for step in range(1, spec.plan.steps + 1):
        began = process_time()
        metrics = run.trainer.step(step).metrics
        own = {"decoded": "tokens/decoded", "forwarded": "tokens/forwarded", "wall_s": "time/step_s"}
        costs = {cost: metrics.get(name, 0.0) for cost, name in own.items()} | {"cpu_s": process_time() - began}
        spent = {cost: spent[cost] + costs[cost] for cost in COSTS}
        means.append({name: metrics[name] for name in MEANS if name in metrics})
        if step % spec.plan.every == 0:
            points.append({"step": step, **rounded(spent), **averaged(means), **accuracies(run, spec.plan)})
            means = []
    run.close()
    return points


def accuracies(run: Run, plan: Plan) -> dict[str, float]:
    """avg, maj and greedy on the held-out problems."""
    problems = run.task.eval_problems(plan.skipped + plan.problems)[plan.skipped :]
    validation = Validation(
        task=run.task,
        problems=problems,
        decode=run.policy.decode,
        response_len=run.config.tree.max_response_tokens,
        num_samples=plan.samples,
        seed=derive_seed("held out"),
    )
    with run.trainer.serving():
        metrics = validation.metrics(run.trainer.engine)
    return rounded({name: metrics[f"eval/{name}"] for name in ("avg", "maj", "greedy")})


def averaged(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    known = {name: [step[name] for step in steps if name in step] for name in MEANS}
    return rounded({name: sum(values) / len(values) for name, values in known.items() if values})


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Numbers as results files hold them."""
    return {name: round(value, 4) for name, value in values.items()}

"""Is a shape per problem, or a number of paths per problem, worth its while?

    OMP_NUM_THREADS=1 python -m experiments.problem_shapes       # a minute and a half of one core; --quick for a look

Of each built-in task some problems get several trees that fork at random levels. Problems are divided by the pass rate
in other trees than the one that is looked at: in one other tree, which is what an earlier epoch would have told, or in
all others, which is closer to the truth. Each group has its own variance components, and these predict noise and tokens
of every shape in it. Then three choices are compared with the best one shape for all, at equal tokens: a shape per
group, paths in proportion to sqrt(noise / tokens) of the group (Neyman), and both. They are made on half of the
problems and judged on the other half; intervals are those of 90% of bootstrap samples of problems. How much the
gradients of problems differ is taken to be 0, so that the gains are upper bounds. Figures go to
experiments/results/problem_shapes.json, task by task; a run that was stopped goes on with what is missing.
"""

import argparse
import json
import platform
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, lgamma
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from experiments.paired import recipe_path
from treepo.config.load import read_recipe, resolve
from treepo.credit.base import Estimator
from treepo.credit.leaf_weights import weighted_mean
from treepo.grow import Planned
from treepo.plan import Components, Kernels, Moments, moments_of, noise_per_token, solve_components
from treepo.plan.noise import ShapeKernel, linear_part, predicted_tokens
from treepo.plan.timing import Stopwatch
from treepo.run.parts import build_policy, close_parts, engine_for, reward_of
from treepo.run.sampler import growth_rules
from treepo.run.task import build_task
from treepo.verify.rewards import score_trees, verify_trees

PATH = Path(__file__).parent / "results" / "problem_shapes.json"
TASKS = ("chain_sums", "start_sums")
GROUPS = ("0", "to 1/4", "to 1/2", "below 1", "1")
EDGES = (1e-9, 0.25 + 1e-9, 0.5 + 1e-9, 1 - 1e-9)
"""Between the groups, of the pass rate elsewhere."""

LEAST = 0.25
"""Fewest paths of a problem, as a share of the mean: 2 of 8."""


def shapes(width: int, depth: int) -> list[tuple[int, ...]]:
    """A star, even trees, and trees that fork once more below the prompt; a star first."""
    found = [(width,) * depth]
    found += [tuple(min(width, c ** (k + 1)) for k in range(depth)) for c in (2, 3, 4)]
    found += [(c,) * k + (width,) * (depth - k) for c in (2, 4) for k in (1, 2, 3, 4)]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class Trees:
    """What is known of T trees for each of P problems: pass rates [P, T], and tables of moments [P, T, K, K + 5]."""

    rates: np.ndarray
    tables: np.ndarray
    estimator: Estimator
    width: int

    def groups(self, num_others: int) -> np.ndarray:
        """int [P, T]: the group of each tree's problem, by its pass rate in so many of the other trees."""
        others = [np.roll(self.rates, -1 - i, axis=1) for i in range(num_others)]
        return np.searchsorted(EDGES, np.mean(others, axis=0))


@dataclass(frozen=True, eq=False)
class Division:
    """Trees by groups of their problems. groups: int [P, T]."""

    trees: Trees
    groups: np.ndarray

    def components(self, problems: np.ndarray) -> tuple[np.ndarray, list[Components]]:
        """(the share of each group [G], its components), of some problems, which may occur several times."""
        own, tables = self.groups[problems], self.trees.tables[problems]
        masks = [own == g for g in range(len(GROUPS))]
        shares = np.array([mask.mean() for mask in masks])
        return shares, [solve_components(Moments.from_table(tables[mask].sum(0))) for mask in masks]

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        return shapes(self.trees.width, self.trees.tables.shape[2])

    @cached_property
    def kernels(self) -> list[list[ShapeKernel]]:
        """Of each shape in each group, with paths that end as often as they do in the group."""
        kernels = Kernels(linear_part(self.trees.estimator))
        _, known = self.components(np.arange(len(self.groups)))
        return [[kernels.grown(paths, own) for paths in self.shapes] for own in known]

    def costs(self, problems: np.ndarray) -> "Costs":
        """The predicted noise and tokens of each shape in each group."""
        shares, known = self.components(problems)
        noise, tokens = np.zeros((2, len(GROUPS), len(self.shapes)))
        for g, own in enumerate(known):
            for s, kernel in enumerate(self.kernels[g] if shares[g] else ()):
                tokens[g, s] = predicted_tokens(kernel, own)
                noise[g, s] = noise_per_token(kernel, own) / tokens[g, s]
        is_known = shares > 0
        return Costs(shares[is_known], noise[is_known], tokens[is_known], is_known)


@dataclass(frozen=True, eq=False)
class Costs:
    """shares [G] of the groups that there are, noise and tokens [G, S] of a tree of each shape; is_known: which of all
    groups there are."""

    shares: np.ndarray
    noise: np.ndarray
    tokens: np.ndarray
    is_known: np.ndarray

    def product(self, chosen: np.ndarray, paths: np.ndarray | float = 1.0) -> float:
        """Noise x tokens of the mean over problems. chosen [G]: shapes; paths [G]: how much larger the trees are."""
        rows = np.arange(len(self.shares))
        noise, tokens = self.noise[rows, chosen], self.tokens[rows, chosen]
        return float(self.shares @ (noise / paths) * (self.shares @ (tokens * paths)))

    def one_shape(self) -> np.ndarray:
        """[G]: the best shape for all."""
        products = [self.product(np.full(len(self.shares), s)) for s in range(self.noise.shape[1])]
        return np.full(len(self.shares), int(np.argmin(products)))

    def own_shapes(self) -> np.ndarray:
        """[G]: the best shape of each group: the least noise + price x tokens, at the best price."""
        typical = np.median(self.noise[np.isfinite(self.noise)]) / np.median(self.tokens)
        choices = [
            np.argmin(self.noise + price * self.tokens, axis=1) for price in typical * np.geomspace(0.01, 100, 81)
        ]
        return min(choices, key=self.product)

    def own_paths(self, chosen: np.ndarray) -> np.ndarray:
        """[G]: Neyman's numbers for these shapes, over their mean, none below LEAST."""
        rows = np.arange(len(self.shares))
        paths = np.sqrt(self.noise[rows, chosen] / self.tokens[rows, chosen])
        return np.maximum(paths / (self.shares @ paths), LEAST)


CHOICES = ("shape per group", "paths per group", "both")


def gains(chosen_on: Costs, judged_on: Costs) -> np.ndarray:
    """[3]: one shape's noise at equal tokens over that of each of CHOICES."""
    if (chosen_on.is_known != judged_on.is_known).any():
        return np.full(3, np.nan)
    one, own = chosen_on.one_shape(), chosen_on.own_shapes()
    plain = judged_on.product(one)
    others = ((own, 1.0), (one, chosen_on.own_paths(one)), (own, chosen_on.own_paths(own)))
    return np.array([plain / judged_on.product(shape, paths) for shape, paths in others])


def crossed(division: Division, halves: list[np.ndarray]) -> np.ndarray:
    """[3]: the gains of choices made on one half of the problems, on the other, in the geometric mean of both ways."""
    one, two = (division.costs(half) for half in halves)
    return np.sqrt(gains(one, two) * gains(two, one))


def report(trees: Trees, num_others: int, num_samples: int) -> dict[str, Any]:
    """The groups, and the gains with their intervals."""
    division = Division(trees, trees.groups(num_others))
    every = np.arange(len(trees.rates))
    shares, known = division.components(every)
    costs = division.costs(every)
    best, rows = costs.own_shapes(), np.flatnonzero(costs.is_known)
    groups = {
        GROUPS[g]: {
            "share": shares[g],
            "pass rate": trees.rates[division.groups == g].mean(),
            "variance": known[g].total,
            "tokens of a path": float(known[g].tokens @ known[g].reached),
            "shape": ", ".join(map(str, division.shapes[best[i]])),
        }
        for i, g in enumerate(rows)
    }
    rng, halves = np.random.default_rng(0), [every[::2], every[1::2]]
    samples = [crossed(division, [rng.choice(half, len(half)) for half in halves]) for _ in range(num_samples)]
    low, high = np.nanquantile(samples, [0.05, 0.95], axis=0)
    found = crossed(division, halves)
    one = costs.one_shape()
    noise, tokens = costs.noise[:, one[0]], costs.tokens[:, one[0]]
    bound = (costs.shares @ noise) * (costs.shares @ tokens) / (costs.shares @ np.sqrt(noise * tokens)) ** 2
    return {
        "groups": groups,
        "one shape": ", ".join(map(str, division.shapes[one[0]])),
        "bound of paths per group": bound,
        "gains": {name: [found[i], low[i], high[i]] for i, name in enumerate(CHOICES)},
    }


def grow(task_name: str, num_problems: int, num_trees: int) -> Trees:
    """Trees of the base model of a task that fork at random levels."""
    config = resolve(read_recipe(recipe_path(f"{task_name}_treepo")))
    policy = build_policy(config, lambda *_: None)
    engine = engine_for(config, policy)
    task = build_task(config, policy, engine.max_model_len)
    try:
        rules = replace(growth_rules(config, policy.decode, task.answers), branching=Planned())
        problems = task.training_problems(0, num_problems)
        rates, tables = [], []
        for number in range(num_trees):
            trees, _ = Stopwatch(engine, config.engine.sampling_params, number).grow(problems, rules)
            verified = verify_trees(task, problems, trees, policy.decode)
            scored = score_trees(reward_of(config), verified, config.tree.max_response_tokens)
            pairs = [(tree, own.rewards) for tree, own in zip(trees, scored, strict=True)]
            rates.append([weighted_mean(tree, own) for tree, own in pairs])
            tables.append([moments_of(tree, own, config.tree).table for tree, own in pairs])
    finally:
        close_parts(engine, task)
    return Trees(np.array(rates).T, np.array(tables).swapaxes(0, 1), config.credit, config.tree.width)


def rounded(value: Any) -> Any:
    """Numbers with four digits."""
    if isinstance(value, dict):
        return {name: rounded(own) for name, own in value.items()}
    if isinstance(value, list):
        return [rounded(own) for own in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(num_problems: int, num_trees: int, num_samples: int, path: Path) -> None:
    """Grow, divide and write; prints a table."""
    about = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "problems": num_problems,
        "trees of a problem": num_trees,
    }
    results: dict[str, Any] = {"about": about, "tasks": {}}
    if path.exists() and (kept := json.loads(path.read_text()))["about"] == about:
        results = kept
    for name in TASKS:
        if name not in results["tasks"]:
            start = process_time()
            trees = grow(name, num_problems, num_trees)
            known = {f"{n} other": report(trees, n, num_samples) for n in (1, num_trees - 1)}
            results["tasks"][name] = {"seconds of one core": process_time() - start} | known
            path.write_text(json.dumps(rounded(results), indent=1) + "\n")
        print(table(name, rounded(results["tasks"][name])), flush=True)


def known_exactly(groups: dict[str, dict[str, Any]]) -> float:
    """The gain of Neyman's numbers over one number for all if each problem's pass rate p were known, for p of a Beta
    distribution with the mean and variance that the groups tell: E p(1-p) / (E sqrt(p(1-p)))^2, at equal lengths; 1
    where they tell of no variance."""
    mean, inner = (sum(own["share"] * own[what] for own in groups.values()) for what in ("pass rate", "variance"))
    total = mean * (1 - mean)
    if inner >= total:
        return 1.0
    size = total / (total - inner) - 1
    a, b = size * mean, size * (1 - mean)
    root = exp(lgamma(a + 0.5) + lgamma(b + 0.5) - lgamma(a + b + 1) - lgamma(a) - lgamma(b) + lgamma(a + b))
    return inner / root**2


def table(name: str, found: dict[str, Any]) -> str:
    """Markdown of a task."""
    lines = []
    for known, own in found.items():
        if isinstance(own, dict):
            lines += ["", f"{name}, groups by the pass rate in {known}; one shape: {own['one shape']}", ""]
            lines += [f"- {group}: {row}" for group, row in own["groups"].items()]
            lines += [f"- {choice}: {gain}" for choice, gain in own["gains"].items()]
            lines.append(f"- bound of paths per group: {own['bound of paths per group']}")
            lines.append(f"- bound of paths per problem, known exactly: {known_exactly(own['groups']):.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few problems, and no file is written")
    if parser.parse_args().quick:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            main(24, 2, 10, Path(folder) / "problem_shapes.json")
    else:
        main(300, 4, 200, PATH)

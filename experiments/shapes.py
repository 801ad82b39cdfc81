"""Predicted against measured noise per token of shapes, where the gradient is known exactly.

    OMP_NUM_THREADS=1 python -m experiments.shapes            # about five minutes on one core; --quick for a look

Three chains over three states, as in leaf_weights.py: one whose paths end early, one in which the last tokens decide,
and one in which the first do. Its logits are one table for all positions (12 numbers), or one per position (144), so
that scores of different stages are orthogonal, as docs/shapes.md assumes. For each chain trees that fork at random
levels give the components, and these predict the noise of each shape under each estimator. The same is measured over
many trees: tr Cov of the update x decoded tokens / (what of its mean is along the gradient)^2, of the update as it is
("raw") and with each stage's part over the share of the gradient that theory says it has ("scaled"). All over that of
`RLOO` on a star. Figures go to experiments/results/shapes.json, row by row; a run that was stopped goes on with what is
missing.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from experiments import leaf_weights as chain
from experiments.estimator_bias import node_weights
from treepo.credit import RLOO, TreePO, TreeRL, ValueDifference
from treepo.credit.base import Advantages, Estimator
from treepo.grow import GrowthRules, InitialFork, NoFallback, Planned, StagedBranching
from treepo.plan import Components, Kernels, Moments, choose_shape, moments_of, noise_per_token, solve_components
from treepo.plan.components import add_moments
from treepo.tree import Tree

PATH = Path(__file__).parent / "results" / "shapes.json"
SHAPE = chain.SHAPE
DEPTH, LENGTH = SHAPE.depth, SHAPE.max_response_tokens
STICKY = np.array([[0.50, 0.25, 0.25, 0.0], [0.01, 0.98, 0.01, 0.0], [0.01, 0.01, 0.98, 0.0]])
"""Rows and columns as in leaf_weights.CHAIN: once a path has left state 0 it hardly moves."""

SHAPES = {
    "star": (8,) * 6,
    "even, 2": (2, 4, 8, 8, 8, 8),
    "even, 4": (4, 8, 8, 8, 8, 8),
    "slow": (2, 2, 4, 4, 8, 8),
    "late": (2, 2, 2, 2, 4, 8),
    "last": (2, 2, 2, 2, 2, 8),
    "wide": (4, 4, 4, 4, 4, 8),
}
ESTIMATORS: dict[str, Estimator] = {
    "RLOO": RLOO(),
    "RLOO, unbiased": RLOO(leaves="unbiased"),
    "TreePO": TreePO(whiten=False),
    "ValueDifference": ValueDifference(whiten=False),
    "TreeRL": TreeRL(),
}
NUM_BATCHES = 10


class Chain(chain.Policy):
    """A chain with its gradient by stage."""

    def __init__(self, name: str, by_position: bool) -> None:
        super().__init__(ends=name == "ends early")
        if name == "decided early":
            self.probabilities = STICKY
            self.cumulative = STICKY.cumsum(1)[:, :-1].tolist()
            self.logprobs = np.log(np.maximum(STICKY, 1e-30)).tolist()
        self.tables = LENGTH if by_position else 1

    @cached_property
    def gradient(self) -> np.ndarray:
        """float64 [K, D]: of the mean reward by all logits, through the tokens of each stage."""
        right, values = (np.arange(3) == chain.RIGHT) * 1.0, [(np.arange(3) == chain.RIGHT) * 1.0]
        for _ in range(LENGTH):
            values.append((self.probabilities * np.column_stack([np.tile(values[-1], (3, 1)), right])).sum(1))
        visits, gradient = np.array([1.0, 0.0, 0.0]), np.zeros((DEPTH, self.tables, 3, 4))
        for place in range(LENGTH):
            left = LENGTH - place
            after = np.column_stack([np.tile(values[left - 1], (3, 1)), right])
            part = visits[:, None] * self.probabilities * (after - values[left][:, None])
            gradient[place // SHAPE.segment_len, place % self.tables] += part
            visits = visits @ self.probabilities[:, :3]
        return gradient.reshape(DEPTH, -1)

    def scores_of(self, tree: Tree) -> np.ndarray:
        """float64 [N, D]: the scores of each node's tokens."""
        scores = np.zeros((len(tree.nodes), self.tables, 3, 4))
        for index in range(1, len(tree.nodes)):
            ids = tree.ids(index).tolist()
            for place in range(len(ids) - 1 - len(tree.nodes[index].token_ids), len(ids) - 1):
                table = scores[index, place % self.tables]
                table[ids[place]] -= self.probabilities[ids[place]]
                table[ids[place], ids[place + 1]] += 1
        return scores.reshape(len(tree.nodes), -1)


@dataclass
class Sums:
    """Over trees: second moments of the update's stages [K, K], their means [K, D], and tokens."""

    second: np.ndarray
    mean: np.ndarray
    num_tokens: float

    def noise(self, gradient: np.ndarray, shares: np.ndarray) -> tuple[float, float]:
        """(scaled, raw). gradient [K, D]; shares [K] of it that the stages of the mean update have."""
        scaled = np.divide(1.0, shares, out=np.zeros(DEPTH), where=shares > 1e-9)
        return self._noise(gradient.sum(0), scaled), self._noise(gradient.sum(0), np.ones(DEPTH))

    def _noise(self, gradient: np.ndarray, factors: np.ndarray) -> float:
        mean = factors @ self.mean
        along = mean @ gradient / np.linalg.norm(gradient)
        return float((factors @ self.second @ factors - mean @ mean) * self.num_tokens / along**2)


def grow_all(policy: Chain, rules: GrowthRules, num_trees: int, seed: int) -> list[Tree]:
    """Trees of the chain."""
    rng = np.random.default_rng(seed)
    return [chain.grow(rules, policy, seed * num_trees + i, rng) for i in range(num_trees)]


def rules_for(paths: Sequence[int]) -> GrowthRules:
    """Trees with so many paths per stage, without fallback."""
    fork = InitialFork(paths[0], paths[0])
    return GrowthRules(SHAPE, fork, StagedBranching(tuple(paths)), NoFallback(), chain.STOPPING)


def rewards_of(tree: Tree, policy: Chain) -> np.ndarray:
    """1 for leaves that are right."""
    return chain.leaf_values(tree, policy)[0]


def moments(policy: Chain, num_trees: int) -> list[Moments]:
    """Those of trees that fork at random levels; squared scores are of the logits in use."""
    rules = GrowthRules(SHAPE, InitialFork(2, 2), Planned(), NoFallback(), chain.STOPPING)
    trees = grow_all(policy, rules, num_trees, seed=999)
    return [moments_of(tree, rewards_of(tree, policy), SHAPE) for tree in trees]


def measured(policy: Chain, paths: Sequence[int], num_trees: int, seed: int) -> dict[str, list[Sums]]:
    """Of each estimator, the sums over each batch of trees."""
    batches: dict[str, list[Sums]] = {name: [] for name in ESTIMATORS}
    for batch in range(NUM_BATCHES):
        num = num_trees // NUM_BATCHES
        found = {name: Sums(np.zeros((DEPTH, DEPTH)), np.zeros_like(policy.gradient), 0.0) for name in ESTIMATORS}
        for tree in grow_all(policy, rules_for(paths), num, seed * NUM_BATCHES + batch):
            rewards, scores = rewards_of(tree, policy), policy.scores_of(tree)
            stages = np.array([max(len(tree.path(i)) - 2, 0) for i in range(len(tree.nodes))])
            in_stage = (stages == np.arange(DEPTH)[:, None]) * 1.0
            for name, estimator in ESTIMATORS.items():
                weights = node_weights(tree, Advantages(estimator(tree, rewards), estimator.per_node))
                update = (in_stage * weights) @ scores
                found[name].second += update @ update.T / num
                found[name].mean += update / num
                found[name].num_tokens += tree.num_decoded() / num
        for name, sums in found.items():
            batches[name].append(sums)
    return batches


def whole(batches: Sequence[Sums]) -> Sums:
    """The mean over batches."""
    return Sums(*(np.mean([getattr(b, name) for b in batches], axis=0) for name in ("second", "mean", "num_tokens")))


def row_of(policy: Chain, paths: Sequence[int], known: Components, num_trees: int, seed: int) -> dict[str, Any]:
    """Predicted and measured noise of one shape by estimator, not yet over the reference."""
    found = measured(policy, paths, num_trees, seed)
    row: dict[str, Any] = {"paths": list(paths), "tokens": whole(found["RLOO"]).num_tokens, "estimators": {}}
    for name, batches in found.items():
        kernel = Kernels(ESTIMATORS[name]).grown(tuple(paths), known)
        row["predicted tokens"] = float(known.tokens @ kernel.nodes)
        shares = kernel.signal / np.maximum(known.reached, 1e-12)
        scaled, raw = whole(batches).noise(policy.gradient, shares)
        # Leaving out one batch after the other: the noise divides by means that few trees do not know.
        left = [whole(batches[:i] + batches[i + 1 :]).noise(policy.gradient, shares) for i in range(NUM_BATCHES)]
        errors = np.std(left, axis=0) * np.sqrt(NUM_BATCHES - 1)
        predicted = [noise_per_token(kernel, known, scaled=is_scaled) for is_scaled in (True, False)]
        row["estimators"][name] = {
            "scaled": {"predicted": predicted[0], "measured": scaled, "error": float(errors[0])},
            "raw": {"predicted": predicted[1], "measured": raw, "error": float(errors[1])},
        }
    return row


def plans(own: Sequence[Moments]) -> dict[str, tuple[int, ...]]:
    """The shape that would be chosen for each estimator."""
    return {
        name: choose_shape(own, estimator, SHAPE.width, num_samples=1).paths for name, estimator in ESTIMATORS.items()
    }


def main(num_trees: int, num_pilot: int, path: Path) -> None:
    """Measure what is missing, write each row, and print the table."""
    about = {
        "command": "OMP_NUM_THREADS=1 python -m experiments.shapes",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "trees": num_trees,
        "pilot trees": num_pilot,
    }
    results: dict[str, Any] = {"about": about, "seconds of one core": 0, "chains": {}}
    if path.exists() and (kept := json.loads(path.read_text()))["about"] == about:
        results = kept
    for number, (name, by_position) in enumerate(
        product(("ends early", "decided late", "decided early"), (False, True))
    ):
        policy = Chain(name, by_position)
        own = moments(policy, num_pilot)
        known = solve_components(add_moments(own))
        label = f"{name}, {'a table per position' if by_position else 'one table'}"
        rows = results["chains"].setdefault(label, {"rows": {}})
        rows["variances"], rows["reached"] = (known.variances * known.reached).tolist(), known.reached.tolist()
        rows["plans"] = {estimator: list(paths) for estimator, paths in plans(own).items()}
        planned = {f"plan of {estimator}": tuple(paths) for estimator, paths in rows["plans"].items()}
        names = {paths: name for name, paths in reversed((SHAPES | planned).items())}
        shapes = {name: paths for paths, name in reversed(names.items())}
        for i, (shape, paths) in enumerate(shapes.items()):
            if shape not in rows["rows"]:
                start = process_time()
                rows["rows"][shape] = row_of(policy, paths, known, num_trees, 100 * number + i)
                results["seconds of one core"] += process_time() - start
                path.write_text(json.dumps(chain.rounded(results), indent=1) + "\n")
                print(label, shape, flush=True)
    # The choice may have changed since the rows were measured.
    path.write_text(json.dumps(chain.rounded(results), indent=1) + "\n")
    print(table(results))


def table(results: dict[str, Any], kind: str = "scaled") -> str:
    """Markdown: predicted / measured noise per token of each shape, over that of RLOO on a star."""
    lines = []
    for label, found in results["chains"].items():
        reference = found["rows"]["star"]["estimators"]["RLOO"][kind]
        lines += ["", f"{label}: variances by stage {np.round(found['variances'], 4).tolist()}", ""]
        lines.append(f"| shape | paths | {' | '.join(ESTIMATORS)} |")
        lines.append("|---|---|" + "---|" * len(ESTIMATORS))
        for shape, row in found["rows"].items():
            cells = []
            for name in ESTIMATORS:
                own = row["estimators"][name][kind]
                one, other = (own[way] / reference[way] for way in ("predicted", "measured"))
                cells.append(f"{one:.2f} / {other:.2f} ± {own['error'] / reference['measured']:.2f}")
            lines.append(f"| {shape} | {', '.join(map(str, row['paths']))} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the trees, and no file is written")
    options = parser.parse_args()
    if options.quick:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            main(200, 100, Path(folder) / "shapes.json")
    else:
        main(1500, 400, PATH)

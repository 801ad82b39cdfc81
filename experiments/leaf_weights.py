"""Bias and variance of averages over a tree's leaves, where the truth is known.

    OMP_NUM_THREADS=1 python experiments/leaf_weights.py            # about three minutes on one core

The policy is a Markov chain over three states; one is right and likely to end, another one is hard to leave. The mean
reward, the lengths and the gradient of the mean reward follow by dynamic programming. Many trees are grown for each
branching, initial fork and fallback, with and without early ends; compared are the plain mean over leaves, the weights
of `treepo.credit.leaf_weights`, and sequential sampling with as many decoded tokens. Figures go to
experiments/results/leaf_weights.json and plots to docs/plots/.
"""

import argparse
import json
import platform
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import matplotlib as mpl
import numpy as np

from treepo.credit.leaf_weights import FallbackLeaves, group_means, leaf_weights, shares
from treepo.engine.base import SampleResult
from treepo.grow.branching import EvenBranching, InitialFork, LogprobBranching, RandomBranching, TokenBudgetBranching
from treepo.grow.builder import GrowthRules, Segment, TreeBuilder
from treepo.grow.fallback import Backtrack, NoFallback
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.tree import ROOT, Tree

HERE = Path(__file__).parent
RIGHT, EOS = 1, 3
CHAIN = np.array(
    [
        [0.40, 0.35, 0.22, 0.03],
        [0.05, 0.25, 0.05, 0.65],
        [0.04, 0.06, 0.85, 0.05],
    ]
)
"""Row: the last token, 0..2 (the prompt is 0); column: the next one, 3 ends. A trajectory is right if 1 is its last
token before the end. The gradient is that of the mean reward by the logit of token 1."""

SHAPE = TreeShape(width=8, depth=6, segment_len=2, num_children=2)
BRANCHINGS = {
    "even": EvenBranching(),
    "random": RandomBranching(1, 4),
    "token budget": TokenBudgetBranching(2 * SHAPE.width),
    "log-probability, low": LogprobBranching("low", temperature=0.3),
    "log-probability, high": LogprobBranching("high", temperature=0.3),
}
FORKS = {"2": InitialFork(2, 2), "2..8": InitialFork(2, 8)}
FALLBACKS = {"none": NoFallback(), "resume": Backtrack()}
STOPPING = StopRules(answer="never", repetition="never")
QUANTITIES = ("reward", "length", "gradient", "gradient, own mean", "gradient, others' mean")
"""The gradient is E[(R - baseline) score]; its baseline is the true mean reward, the tree's mean, or for each node's
tokens the mean over the leaves that are not below it."""

KINDS: tuple[FallbackLeaves, ...] = ("ignored", "alike", "all")
WEIGHTINGS = ("plain", *KINDS)


class Policy:
    """The chain; without early ends its column of ends is 0 and the others make up for it."""

    def __init__(self, ends: bool) -> None:
        self.probabilities = CHAIN * [1, 1, 1, ends]
        self.probabilities /= self.probabilities.sum(1, keepdims=True)
        self.cumulative = self.probabilities.cumsum(1)[:, :-1].tolist()
        self.logprobs = np.log(np.maximum(self.probabilities, 1e-30)).tolist()
        self.scores = (np.arange(4) == RIGHT) - self.probabilities[:, [RIGHT]]

    def decode(self, segment: Segment, rng: np.random.Generator) -> SampleResult:
        """A segment by chance."""
        state, ids, logprobs = int(segment.prefix_ids[-1]), [], []
        for draw in rng.random(segment.max_new_tokens).tolist():
            token = sum(draw >= bound for bound in self.cumulative[state])
            ids.append(token)
            logprobs.append(self.logprobs[state][token])
            if token == EOS:
                break
            state = token
        return SampleResult(0, np.array(ids, np.int32), np.array(logprobs, np.float32), ids[-1] == EOS)

    def truth(self) -> dict[str, float]:
        """Mean reward, mean length and gradient, backwards from the longest response."""
        value, slope, length = (np.arange(3) == RIGHT) * 1.0, np.zeros(3), np.zeros(3)
        for _ in range(SHAPE.max_response_tokens):
            after = np.column_stack([np.tile(value, (3, 1)), np.arange(3) == RIGHT])
            slope = (self.probabilities * (self.scores * after + np.append(slope, 0.0))).sum(1)
            value = (self.probabilities * after).sum(1)
            length = 1 + self.probabilities[:, :3] @ length
        return dict(zip(QUANTITIES, [value[0], length[0], *[slope[0]] * 3], strict=True))


def grow(rules: GrowthRules, policy: Policy, seed: int, rng: np.random.Generator) -> Tree:
    """One tree."""
    growth = TreeBuilder("p", [0], seed, rules)
    segments = growth.start()
    while segments:
        results = [policy.decode(segment, rng) for segment in segments]
        segments = [growth.receive(i, result) for i, result in enumerate(results)][-1]
    return growth.tree


def leaf_values(tree: Tree, policy: Policy) -> np.ndarray:
    """[3, leaves]: reward, length, score of each leaf."""
    columns = []
    for leaf in tree.leaves():
        ids = tree.ids(leaf)
        last = ids[-2] if ids[-1] == EOS else ids[-1]
        columns.append((last == RIGHT, len(ids) - 1, policy.scores[ids[:-1], ids[1:]].sum()))
    return np.array(columns, float).T


def plain_averages(values: np.ndarray, baseline: float) -> list[float]:
    """The means of QUANTITIES where every leaf weighs the same, and stands for itself."""
    reward, length, score = values
    own = ((reward - reward.mean()) * score).mean()
    others = own * len(reward) / max(len(reward) - 1, 1)
    return [reward.mean(), length.mean(), ((reward - baseline) * score).mean(), own, others]


def weighted_averages(
    tree: Tree, kind: FallbackLeaves, policy: Policy, values: np.ndarray, baseline: float
) -> list[float]:
    """The weighted means of QUANTITIES."""
    reward, length, score = values
    weights, means = leaf_weights(tree, kind), group_means(tree, reward, kind)
    own = means[ROOT]
    below, others = shares(tree, kind), 0.0
    node_weights = np.ones(len(tree.nodes))
    for index in [*tree.top_down()][1:]:
        node = tree.nodes[index]
        node_weights[index] = w = node_weights[node.parent] * below[index]
        rest = (own - w * means[index]) / (1 - w) if w < 1 - 1e-9 else 0.0
        before = np.append(tree.nodes[node.parent].token_ids[-1], node.token_ids[:-1])
        others += w * (means[index] - rest) * policy.scores[before, node.token_ids].sum()
    constant = weights @ ((reward - baseline) * score)
    return [own, weights @ length, constant, weights @ ((reward - own) * score), others]


def measure(rules: GrowthRules, policy: Policy, num_trees: int, seed: int) -> dict:
    """Bias, its standard error and the variance times tokens of one configuration."""
    rng, truth = np.random.default_rng(seed), policy.truth()
    found, tokens, leaves = [], [], []
    for i in range(num_trees):
        tree = grow(rules, policy, seed * num_trees + i, rng)
        values = leaf_values(tree, policy)
        weighted = [weighted_averages(tree, kind, policy, values, truth["reward"]) for kind in KINDS]
        found.append([plain_averages(values, truth["reward"]), *weighted])
        tokens.append(tree.num_decoded())
        leaves.append(values.shape[1])
    means = np.array(found)
    bias = means.mean(0) - [truth[q] for q in QUANTITIES]
    variance = means.var(0, ddof=1)
    return {
        "tokens per tree": float(np.mean(tokens)),
        "leaves per tree": float(np.mean(leaves)),
        "estimators": {
            kind: {
                q: {"bias": bias[i, j], "se": (variance[i, j] / num_trees) ** 0.5, "variance": variance[i, j]}
                for j, q in enumerate(QUANTITIES)
            }
            for i, kind in enumerate(WEIGHTINGS)
        },
    }


def sequential(policy: Policy, num_trees: int) -> dict:
    """The same for stars: SHAPE.width independent trajectories."""
    shape = TreeShape(SHAPE.width, depth=1, segment_len=SHAPE.max_response_tokens, num_children=SHAPE.width)
    rules = GrowthRules(shape, InitialFork(SHAPE.width, SHAPE.width), EvenBranching(), NoFallback(), STOPPING)
    figures = measure(rules, policy, num_trees, seed=0)
    return {**figures, "estimators": {"sequential": figures["estimators"]["plain"]}}


def relative(row: dict, kind: str, quantity: str, star: dict) -> float | None:
    """The estimator's variance over that of sequential sampling with as many decoded tokens; None where that is 0."""
    own, other = row["estimators"][kind][quantity], star["estimators"]["sequential"][quantity]
    if other["variance"] == 0:
        return None
    return own["variance"] * row["tokens per tree"] / (other["variance"] * star["tokens per tree"])


def main(num_trees: int) -> None:
    """Measure everything, write the figures, draw the plots and print a table."""
    start, rows, truths = process_time(), [], {}
    for ends in (True, False):
        policy, name = Policy(ends), "early ends" if ends else "no early ends"
        star = sequential(policy, num_trees)
        truths[name] = policy.truth()
        rows.append({"branching": "sequential", "ends": name, **star})
        for i, (b, f, r) in enumerate(product(BRANCHINGS, FORKS, FALLBACKS)):
            rules = GrowthRules(SHAPE, FORKS[f], BRANCHINGS[b], FALLBACKS[r], STOPPING)
            row: dict[str, Any] = {"branching": b, "initial fork": f, "fallback": r, "ends": name}
            row |= measure(rules, policy, num_trees, 1 + i + 100 * ends)
            for kind, quantity in product(WEIGHTINGS, QUANTITIES):
                row["estimators"][kind][quantity]["relative variance"] = relative(row, kind, quantity, star)
            rows.append(row)
            print(line(row), flush=True)
    about = {
        "command": "OMP_NUM_THREADS=1 python experiments/leaf_weights.py",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seconds of one core": round(process_time() - start),
        "trees": num_trees,
        "shape": "width 8, depth 6, segments of 2 tokens, num_children 2",
    }
    figures = rounded({"about": about, "truth": truths, "largest bias over its error": largest(rows), "rows": rows})
    (HERE / "results" / "leaf_weights.json").write_text(json.dumps(figures, indent=1) + "\n")
    draw(rows)


def largest(rows: list[dict]) -> dict:
    """For each weighting and quantity, the largest |bias| in standard errors over all rows of trees."""
    found = {}
    for kind, quantity in product(WEIGHTINGS, QUANTITIES):
        cells = [row["estimators"][kind][quantity] for row in rows if row["branching"] != "sequential"]
        ratios = [abs(cell["bias"]) / cell["se"] for cell in cells if cell["se"] > 0]
        found.setdefault(kind, {})[quantity] = max(ratios)
    return found


def line(row: dict) -> str:
    """A row of the table: bias of the mean reward with its standard error, and relative variance."""
    cells = []
    for kind in WEIGHTINGS:
        e = row["estimators"][kind]["reward"]
        cells.append(f"{e['bias']:+.4f} ± {e['se']:.4f} ({e['relative variance']:.2f})")
    return " | ".join([row["branching"], row["initial fork"], row["fallback"], row["ends"], *cells])


def rounded(value: object) -> object:
    """Floats with 5 significant digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def draw(rows: list[dict]) -> None:
    """Bias and relative variance of reward and gradient, with early ends."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    rows = [r for r in rows if r["ends"] == "early ends" and r["branching"] != "sequential"]
    names = [f"{r['branching']}, fork {r['initial fork']}, {r['fallback']}" for r in rows]
    folder = HERE.parent / "docs" / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for figure in ("bias", "relative variance"):
        panels, axes = plt.subplots(1, 2, figsize=(10, 5.5), sharey=True)
        for axis, quantity in zip(axes, ("reward", "gradient"), strict=True):
            for i, kind in enumerate(WEIGHTINGS):
                found = [r["estimators"][kind][quantity] for r in rows]
                errors = [2 * e["se"] for e in found] if figure == "bias" else None
                places = np.arange(len(rows)) + 0.18 * (i - 1.5)
                axis.errorbar([e[figure] for e in found], places, xerr=errors, fmt="o", markersize=3, label=kind)
            axis.axvline(0 if figure == "bias" else 1, color="grey", linewidth=0.8)
            axis.set_title(f"{quantity}: {figure}")
            axis.grid(axis="y", alpha=0.2)
        axes[0].set_yticks(range(len(rows)), names, fontsize=7)
        axes[0].invert_yaxis()
        axes[1].legend(fontsize=7)
        panels.tight_layout()
        panels.savefig(folder / f"leaf_weights_{figure.split()[-1]}.png", dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=2000, help="trees per configuration")
    main(parser.parse_args().trees)

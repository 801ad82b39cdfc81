"""What each estimator's expected update is, beside the policy gradient, and how noisy it is at equal tokens.

    OMP_NUM_THREADS=1 python -m experiments.estimator_bias            # about five minutes on one core

The update of a tree is 1/L sum over its L leaves and their tokens of advantage x score: what an on-policy step with
`aggregation.use = "ConstantLength"` makes of it, but for a constant. Two policies whose gradient is known:

- exact: the tiny policy of tests/credit/exact.py, over all trees that can grow, rewards that no shape explains;
- simulated: the chain of leaf_weights.py, where right answers are short, over many trees.

For each estimator: the cosine of the expected update with the gradient by the logits of every state; its ratio to the
gradient by one shared logit; and the noise, tr Cov of the update x decoded tokens / (what of its mean is along the
gradient)^2, over that of RLOO on sequential samples: how many times as many tokens make as good a step where noise
prevails. Whitened rows are the limit of a large batch. Figures go to experiments/results/estimator_bias.json.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from experiments import leaf_weights as chain
from tests.credit.exact import TinyPolicy, all_trees, value_of, values_of
from treepo.credit.base import Advantages
from treepo.credit.group import GRPO, RLOO, DrGRPO, MaxRL, REINFORCEPlusPlus
from treepo.credit.segment import SPO, FadingDifference, TreeRL, ValueDifference
from treepo.credit.subgroup import TreePO
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import NoFallback
from treepo.grow.shape import TreeShape
from treepo.tree import Tree

ESTIMATORS: dict[str, Any] = {
    "GRPO": GRPO(),
    "DrGRPO": DrGRPO(),
    "RLOO": RLOO(),
    "REINFORCEPlusPlus": REINFORCEPlusPlus(),
    "MaxRL": MaxRL(),
    "TreePO": TreePO(),
    "TreePO, by size": TreePO(weight="size"),
    "TreePO, rejection": TreePO(reject_agreeing=True),
    "TreePO, without root": TreePO(with_root=False),
    "TreePO, distinct": TreePO(distinct=True),
    "TreePO, divided by std": TreePO(divide_by_std=True),
    "ValueDifference": ValueDifference(),
    "ValueDifference, leaves": ValueDifference("leaves"),
    "FadingDifference": FadingDifference(),
    "SPO": SPO(),
    "TreeRL": TreeRL(),
    "RLOO, unbiased": RLOO(leaves="unbiased"),
    "DrGRPO, unbiased": DrGRPO(leaves="unbiased"),
    "GRPO, unbiased": GRPO(leaves="unbiased"),
    "TreePO, unbiased": TreePO(leaves="unbiased", whiten=False),
}
SMALL = TreeShape(width=4, depth=3, segment_len=1, num_children=2)
FORK = InitialFork(2, 2)
SIMULATED = [("even", True, "none"), ("even", True, "resume"), ("log-probability, high", True, "none")]
SIMULATED += [("even", False, "none"), ("log-probability, high", False, "none")]
"""Branching, whether paths end early, fallback."""

Score = Callable[[Sequence[int], Sequence[int]], np.ndarray]
"""(response before, tokens) -> float64 [states x tokens]: derivatives of the tokens' log-probability by all logits."""


@dataclass
class Updates:
    """Those of one estimator: per tree its probability, update and plain mean score [D], and over tokens of
    trajectories their number and the sum of their advantages."""

    probabilities: list[float] = field(default_factory=list)
    updates: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    totals: list[tuple[float, float]] = field(default_factory=list)

    def add(self, probability: float, tree: Tree, advantages: Advantages, scores: np.ndarray) -> None:
        """scores: [N, D], of each node."""
        counts = advantages.token_counts(tree)
        self.probabilities.append(probability)
        self.updates.append(node_weights(tree, advantages) @ scores)
        self.scores.append(node_weights(tree, Advantages(np.ones(len(tree.leaves())))) @ scores)
        self.totals.append((counts.sum(), (counts * advantages.values).sum()))

    def of_batches(self, whitened: bool) -> np.ndarray:
        """[trees, D]: the updates; whitened as in a large batch, but for the factor that all have in common."""
        if not whitened:
            return np.array(self.updates)
        num_tokens, total = np.array(self.probabilities) @ np.array(self.totals)
        return np.array(self.updates) - total / num_tokens * np.array(self.scores)


def node_weights(tree: Tree, advantages: Advantages) -> np.ndarray:
    """float64 [N]: what the tokens of each node count in the update, where each leaf weighs 1 / L."""
    weights, values = np.zeros(len(tree.nodes)), advantages.values
    for node, leaves in tree.groups().items():
        if not advantages.per_node:
            weights[node] = values[leaves].sum()
        elif values.ndim == 1:
            weights[node] = values[node] * len(leaves)
        else:
            weights[node] = values[node, leaves].sum()
    return weights / len(tree.leaves())


def collect(
    grown: Iterable[tuple[float, Tree]], rewards_of: Callable[[Tree], np.ndarray], score: Score, names: Iterable[str]
) -> tuple[dict[str, Updates], float]:
    """(the updates of each estimator, mean decoded tokens per tree) over trees with their probabilities."""
    found, num_tokens = {name: Updates() for name in names}, 0.0
    for probability, tree in grown:
        rewards, scores = rewards_of(tree), scores_of(tree, score)
        num_tokens += probability * tree.num_decoded()
        for name, updates in found.items():
            estimator = ESTIMATORS[name]
            updates.add(probability, tree, Advantages(estimator(tree, rewards), estimator.per_node), scores)
    return found, num_tokens


def scores_of(tree: Tree, score: Score) -> np.ndarray:
    """[N, D]; 0 for the root."""
    rows = [np.zeros_like(score((), ()))]
    for index in range(1, len(tree.nodes)):
        response, num = tree.ids(index)[1:].tolist(), len(tree.nodes[index].token_ids)
        rows.append(score(response[:-num], response[-num:]))
    return np.array(rows)


def figures(
    updates: Updates, num_tokens: float, gradient: np.ndarray, shared: np.ndarray, whitened: bool
) -> dict[str, float]:
    """Of the expected update u and the gradient g: the ratio of their sums over the logits that are shared (not of a
    whitened one, which has no scale of its own), their cosine, and the noise, tr Cov x tokens / (u g / |g|)^2."""
    rows, weights = updates.of_batches(whitened), np.array(updates.probabilities)
    mean = weights @ rows
    along = mean @ gradient / np.linalg.norm(gradient)
    noise = weights @ ((rows - mean) ** 2).sum(1) * num_tokens / along**2
    found = {"cosine": float(along / np.linalg.norm(mean)), "noise": float(noise)}
    return found if whitened else {"ratio": float(shared @ mean / (shared @ gradient))} | found


def rows_of(
    collected: tuple[dict[str, Updates], float], gradient: np.ndarray, shared: np.ndarray, reference: float = 1.0
) -> dict[str, dict[str, float]]:
    """Figures of every estimator, raw and where that is its default whitened; noise over that of the reference."""
    rows = {}
    found, num_tokens = collected
    for name, updates in found.items():
        for whitened in [False, True] if ESTIMATORS[name].whiten else [False]:
            own = figures(updates, num_tokens, gradient, shared, whitened)
            rows[f"{name}, whitened" if whitened else name] = own | {"noise": own["noise"] / reference}
    return rows


def tiny_score(policy: TinyPolicy) -> Score:
    """States are the prefixes, of at most two tokens after which one more may be drawn."""
    prefixes = [p for n in range(SMALL.max_response_tokens) for p in product(range(1, policy.num_tokens), repeat=n)]
    place = {prefix: i for i, prefix in enumerate(prefixes)}

    def score(before: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        table, response = np.zeros((len(prefixes), policy.num_tokens)), list(before)
        for token in tokens:
            table[place[tuple(response)]] -= policy(response)
            table[place[tuple(response)], token] += 1
            response.append(token)
        return table.ravel()

    return score


def exact(names: Sequence[str] = tuple(ESTIMATORS)) -> dict[str, dict[str, dict[str, float]]]:
    """The tiny policy, its shared logit that of the end: figures by fallback and estimator."""
    policy = TinyPolicy(2)
    score = tiny_score(policy)
    gradient = np.sum([p * value_of(r) * score((), r) for p, r in responses(policy)], axis=0)
    shared = (np.arange(len(gradient)) % policy.num_tokens == 0) * 1.0
    star = GrowthRules(
        TreeShape(SMALL.width, 1, SMALL.max_response_tokens, SMALL.width),
        InitialFork(SMALL.width, SMALL.width),
        EvenBranching(),
        NoFallback(),
        chain.STOPPING,
    )
    flat = rows_of(collect(all_trees(star, policy), values_of, score, ["RLOO"]), gradient, shared)
    found = {}
    for name, fallback in chain.FALLBACKS.items():
        rules = GrowthRules(SMALL, FORK, EvenBranching(), fallback, chain.STOPPING)
        collected = collect(all_trees(rules, policy), values_of, score, names)
        found[name] = rows_of(collected, gradient, shared, flat["RLOO"]["noise"])
    return found


def responses(policy: TinyPolicy, start: tuple[int, ...] = ()) -> Iterable[tuple[float, tuple[int, ...]]]:
    """Every response with its probability."""
    if len(start) == SMALL.max_response_tokens or start[-1:] == (0,):
        yield 1.0, start
        return
    for token, probability in enumerate(policy(start)):
        for rest, response in responses(policy, (*start, token)):
            yield probability * rest, response


def chain_gradient(policy: chain.Policy) -> np.ndarray:
    """[3 x 4]: of the chain's mean reward by all logits, from values backwards and visits forwards."""
    right, most = (np.arange(3) == chain.RIGHT) * 1.0, chain.SHAPE.max_response_tokens
    values = [right]
    for _ in range(most):
        values.append((policy.probabilities * np.column_stack([np.tile(values[-1], (3, 1)), right])).sum(1))
    visits, gradient = np.array([1.0, 0.0, 0.0]), np.zeros((3, 4))
    for left in range(most, 0, -1):
        after = np.column_stack([np.tile(values[left - 1], (3, 1)), right])
        gradient += visits[:, None] * policy.probabilities * (after - values[left][:, None])
        visits = visits @ policy.probabilities[:, :3]
    return gradient.ravel()


def chain_score(policy: chain.Policy) -> Score:
    """States are the last tokens; the prompt is 0."""

    def score(before: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        table, state = np.zeros((3, 4)), [0, *before][-1]
        for token in tokens:
            table[state] -= policy.probabilities[state]
            table[state, token] += 1
            state = token
        return table.ravel()

    return score


def simulated(num_trees: int) -> list[dict[str, Any]]:
    """The chain, its shared logit that of the right token: figures by configuration and estimator."""
    shared = np.tile(np.arange(4) == chain.RIGHT, 3) * 1.0
    width, rows = chain.SHAPE.width, []
    star = TreeShape(width, depth=1, segment_len=chain.SHAPE.max_response_tokens, num_children=width)
    flat = GrowthRules(star, InitialFork(width, width), EvenBranching(), NoFallback(), chain.STOPPING)
    noise = {}
    configurations = [("sequential", True, "none"), ("sequential", False, "none"), *SIMULATED]
    for seed, (branching, ends, fallback) in enumerate(configurations):
        policy, is_flat = chain.Policy(ends), branching == "sequential"
        parts = (FORK, chain.BRANCHINGS[branching], chain.FALLBACKS[fallback]) if not is_flat else ()
        rules = GrowthRules(chain.SHAPE, *parts, chain.STOPPING) if parts else flat
        rng = np.random.default_rng(seed)
        grown = ((1 / num_trees, chain.grow(rules, policy, seed * num_trees + i, rng)) for i in range(num_trees))
        names = ["GRPO", "DrGRPO", "RLOO", "REINFORCEPlusPlus", "MaxRL"] if is_flat else list(ESTIMATORS)
        collected = collect(grown, lambda tree, p=policy: chain.leaf_values(tree, p)[0], chain_score(policy), names)
        if is_flat:
            noise[ends] = rows_of(collected, chain_gradient(policy), shared)["RLOO"]["noise"]
        found = rows_of(collected, chain_gradient(policy), shared, noise[ends])
        rows.append({"branching": branching, "early ends": ends, "fallback": fallback, "estimators": found})
        print(branching, ends, fallback, flush=True)
    return rows


def table(exactly: dict[str, dict[str, dict[str, float]]], rows: list[dict[str, Any]]) -> str:
    """Markdown: ratio and cosine without and with fallback, then cosine and noise of each simulated configuration."""
    lines = []
    trees = [row["estimators"] for row in rows if row["branching"] != "sequential"]
    for name in exactly["none"]:
        cells = [
            " / ".join(f"{own[name][key]:.3f}" for own in exactly.values() if key in own[name])
            for key in ("ratio", "cosine")
        ]
        cells += [f"{own[name]['cosine']:.3f} ({own[name]['noise']:.2f})" for own in trees]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(num_trees: int) -> None:
    """Measure everything, write the figures and print the table."""
    start = process_time()
    exactly, rows = exact(), simulated(num_trees)
    about = {
        "command": "OMP_NUM_THREADS=1 python -m experiments.estimator_bias",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seconds of one core": round(process_time() - start),
        "trees": num_trees,
    }
    results = chain.rounded({"about": about, "exact": exactly, "simulated": rows})
    path = Path(__file__).parent / "results" / "estimator_bias.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(table(exactly, rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=6000, help="simulated trees per configuration")
    main(parser.parse_args().trees)

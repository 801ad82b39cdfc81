"""Thousands of trees over turns, of random worlds and environments, and what has to hold for each of them.

    OMP_NUM_THREADS=1 python -m experiments.turn_trees --trees 10000        # a few minutes on one core

Each tree has a shape, stop rules, a branching, a fallback, limits and an environment of its own: stateful games that
draw random numbers, forked by copy, by replay or as coroutines; in one of four some turns fail, in one of 200 some
hang. Of every tree it is checked that

- each path is an episode: an environment that was never forked answers its texts with what the path observed, and every
  environment was closed once;
- ids on paths are what the engine was given and had sampled;
- no observed token is in a length, count, metric or target;

and of one in five that another way to fork and another schedule grow the same tree, of one in ten that an environment
of a single turn grows the tree that grows without environments, node by node, and of the first --gradients that have a
signal that packed gradients are those of trajectories one by one, with every estimator in turn. The figures go to
experiments/results/turn_trees.json; the first thing that does not hold ends the run with the seed of its tree.
"""

import argparse
import json
import platform
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from tests.envs.games import AsyncGame, Game, Plain
from tests.grow.scripts import World, random_world
from tests.grow.test_turns import check_episode, check_ids, check_one_turn, contents, grown, turns
from tests.learn.reference import all_logprobs, ppo
from tests.learn.test_observed import check_targets, check_views
from tests.learn.test_update import ALL_TOKENS, gradients, largest_difference, updater_of
from tests.models import make_tiny_model
from treepo import credit
from treepo.grow.branching import EvenBranching, LogprobBranching, RandomBranching
from treepo.grow.fallback import Backtrack, NoFallback
from treepo.learn.advantages import compute_advantages, has_signal
from treepo.learn.losses import PPO
from treepo.tree import StopReason, Tree

KINDS: dict[str, Callable[..., Any]] = {
    "copy": Game,
    "replay": lambda *given, **named: Plain(**dict(zip(("modulus", "error"), given, strict=False)), **named),
    "coroutines": AsyncGame,
}
ESTIMATORS = [
    *(credit.GRPO(), credit.RLOO(), credit.TreePO(), credit.TreePO(level="turn"), credit.ValueDifference()),
    *(credit.ValueDifference(level="turn"), credit.SPO(), credit.TreeRL(), credit.FadingDifference(0.8)),
    *(credit.TreeAdv(), credit.TEMPO()),
]
HANG_S = 1.0
"""The time limit where turns may hang; on a busy machine others may take as long, and end their paths, too."""


class Figures:
    """Counts over all trees."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self.turns: Counter[int] = Counter()
        self.gradients: dict[str, float] = {}

    def add(self, tree: Tree) -> None:
        self.counts["trees"] += 1
        self.counts["nodes"] += len(tree.nodes)
        self.counts["sampled tokens"] += tree.num_decoded()
        self.counts["observed tokens"] += sum(len(n.token_ids) for n in tree.nodes if n.observed)
        for leaf in tree.leaves():
            self.counts["trajectories"] += 1
            self.stops[str(tree.nodes[leaf].stop)] += 1
            self.turns[len(tree.turn_starts(leaf))] += 1
        for children in tree.children():
            self.counts["forks"] += len(children) > 1
        observed = {i for i, node in enumerate(tree.nodes) if node.observed}
        at_start = [own for i, own in enumerate(tree.children()) if i in observed and len(own) > 1]
        self.counts["forks at the start of a turn"] += len(at_start)


def check_tree(seed: int, figures: Figures) -> Tree:
    """Grow the tree of a seed and check it."""
    rng = np.random.default_rng(seed)
    world, kind = random_world(seed, 8), list(KINDS)[rng.integers(len(KINDS))]
    modulus, error = int(rng.choice([2, 3, 7, 1000])), float(rng.choice([0.0, 0.0, 0.0, 0.2]))
    settings: dict[str, Any] = {
        "max_turns": int(rng.integers(1, 7)),
        "max_observed_tokens": int(rng.choice([6, 20, 1000])),
        "num_workers": int(rng.choice([1, 4])),
    }
    cut = str(rng.choice(["boundary", "turn", "unlikely_token"]))
    strategies: dict[str, Any] = {
        "branching": [EvenBranching(), RandomBranching(1, 3), LogprobBranching()][rng.integers(3)],
        "fallback": [Backtrack(order="all", cut=cut), Backtrack(cut=cut), NoFallback()][rng.integers(3)],  # type: ignore[arg-type]
        "segment_full_trees": bool(rng.random() < 0.5),
    }
    if seed % 200 == 7:
        return check_hanging(world, modulus, settings, strategies, figures)
    made: list[Any] = []
    noted = {"made": made} if kind == "copy" else {}
    rules = turns(lambda: KINDS[kind](modulus, error, **noted), **settings)
    engine = world.engine()
    tree = grown(world, rules, engine, **strategies)
    for leaf in tree.leaves():
        check_episode(tree, leaf, lambda: Game(modulus, error), world.name, settings["max_turns"])
    assert all(game.num_closed == 1 for game in made)
    figures.counts["environments closed once"] += len(made)
    check_common(tree, engine, figures)
    if seed % 5 == 0:
        other = list(KINDS)[(list(KINDS).index(kind) + 1) % len(KINDS)]
        changed = strategies | {"segment_full_trees": not strategies["segment_full_trees"]}
        rules = turns(lambda: KINDS[other](modulus, error), **settings | {"num_workers": 1})
        again = grown(world, rules, world.engine(max_num_seqs=1), **changed)
        assert contents(again) == contents(tree)
        figures.counts["grown in another way"] += 1
    if seed % 10 == 3:
        check_one_turn(world, strategies["segment_full_trees"])
        figures.counts["single turns"] += 1
    return tree


def check_hanging(
    world: World, modulus: int, settings: dict[str, Any], strategies: dict[str, Any], figures: Figures
) -> Tree:
    """A tree some of whose turns hang: they end their paths, and the others are as ever."""
    release, engine = threading.Event(), world.engine()
    rules = turns(lambda: Game(modulus, hang=0.1, release=release), **settings | {"timeout_s": HANG_S})
    tree = grown(world, rules, engine, **strategies)
    release.set()
    for leaf in tree.leaves():
        make = lambda: Game(modulus, hang=0.1, release=release)  # noqa: E731
        check_episode(tree, leaf, make, world.name, settings["max_turns"])
    check_common(tree, engine, figures)
    figures.counts["trees with hanging turns"] += 1
    return tree


def check_common(tree: Tree, engine: Any, figures: Figures) -> None:
    """What holds for every tree."""
    check_ids(tree, engine)
    if tree.leaves():
        check_views(tree)
        check_targets(tree)
    figures.add(tree)


def gradient_difference(tree: Tree, rewards: np.ndarray, estimator: Any) -> float:
    """The largest difference between packed gradients, whole and in parts, and those of trajectories one by one."""
    [advantages] = compute_advantages([tree], [rewards], estimator).by_tree
    assert advantages is not None
    plain = make_tiny_model(dtype=torch.float64, vocab_size=24, attention="sdpa")
    rows, formula, losses = advantages.by_token(tree), ppo(0.2, 0.28), []
    for leaf, row in zip(tree.leaves(), rows, strict=True):
        ids, trajectory = tree.ids(leaf), tree.trajectory(leaf)
        first = len(tree.prompt_ids)
        logprobs = all_logprobs(plain, ids.tolist())[np.arange(first - 1, len(ids) - 1), ids[first:].astype(int)]
        mask = torch.from_numpy(~trajectory.observed)
        sampled = torch.from_numpy(trajectory.sampled_logprobs).double()[mask]
        one_by_one = zip(logprobs[mask], sampled, row.tolist(), strict=True)
        losses.append(torch.stack([formula(*token) for token in one_by_one]))
    torch.cat(losses).mean().backward()
    largest = 0.0
    for max_tokens in (ALL_TOKENS, 24):
        model = make_tiny_model(dtype=torch.float64, vocab_size=24)
        updater = updater_of(model, max_tokens, loss=PPO(0.2, 0.28))
        updater.update(updater.pack(tree, advantages))
        largest = max(largest, largest_difference(gradients(model), gradients(plain)))
    return largest


def near(tree: Tree, rng: np.random.Generator) -> Tree:
    """The tree with log-probabilities as if the tiny model had sampled it, but for noise."""
    nodes = list(tree.nodes)
    model = make_tiny_model(dtype=torch.float64, vocab_size=24, attention="sdpa")
    with torch.no_grad():
        for i, node in enumerate(nodes):
            if node.sampled_logprobs is not None:
                ids, count = tree.ids(i), len(node.token_ids)
                places = np.arange(len(ids) - 1 - count, len(ids) - 1)
                exact = all_logprobs(model, ids.tolist()).numpy()[places, ids[-count:].astype(int)]
                noisy = exact + 0.3 * rng.normal(size=count)
                nodes[i] = replace(node, sampled_logprobs=noisy.astype(np.float32))
    return replace(tree, nodes=nodes)


def main(num_trees: int, num_gradients: int, out: Path) -> None:
    """Check everything, and write the figures as they become more."""
    start, figures, rng = process_time(), Figures(), np.random.default_rng(0)
    for seed in range(num_trees):
        try:
            tree = check_tree(seed, figures)
        except BaseException:
            print(f"the tree of seed {seed}", flush=True)
            raise
        rewards = np.array([float(sum(tree.turn_rewards(leaf))) for leaf in tree.leaves()])
        lost = any(tree.nodes[leaf].stop is StopReason.ENV_ERROR for leaf in tree.leaves())
        done = figures.counts["trees with gradients"]
        if done < num_gradients and not lost and tree.has_observed and has_signal(rewards):
            estimator = ESTIMATORS[done % len(ESTIMATORS)]
            found = gradient_difference(near(tree, rng), rewards, estimator)
            assert found < 1e-12, (seed, estimator, found)
            figures.gradients[repr(estimator)] = max(found, figures.gradients.get(repr(estimator), 0.0))
            figures.counts["trees with gradients"] += 1
        if seed % 500 == 499 or seed == num_trees - 1:
            seconds = round(process_time() - start)
            options = f"--trees {seed + 1} --gradients {num_gradients}"
            out.write_text(json.dumps(results(figures, options, seconds), indent=1) + "\n")
            print(seed + 1, seconds, "s", flush=True)


def results(figures: Figures, options: str, seconds: int) -> dict[str, Any]:
    """What goes to the file."""
    return {
        "command": f"OMP_NUM_THREADS=1 python -m experiments.turn_trees {options}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds of one core": seconds,
        "counts": dict(sorted(figures.counts.items())),
        "stop reasons": dict(sorted(figures.stops.items())),
        "turns of a trajectory": {str(k): n for k, n in sorted(figures.turns.items())},
        "largest difference of a gradient": figures.gradients,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=10000)
    parser.add_argument("--gradients", type=int, default=110, help="trees whose gradients are compared")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "turn_trees.json")
    given = parser.parse_args()
    main(given.trees, given.gradients, given.out)

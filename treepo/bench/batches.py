"""Batches of trees to update on: balanced synthetic trees, and trees of the built-in task."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from treepo.bench.common import random_ids
from treepo.bench.settings import UpdateBenchConfig
from treepo.config.load import resolve
from treepo.config.schema import BUILT_IN_TASK
from treepo.credit.base import Advantages
from treepo.errors import SettingError
from treepo.learn.advantages import compute_advantages
from treepo.learn.packing import num_distinct, pack
from treepo.learn.scoring import Scorer
from treepo.model.policy import Policy
from treepo.run.parts import close_parts, engine_for
from treepo.run.task import build_task
from treepo.run.trainer import build_reference, build_scorer, build_trainer, build_updater
from treepo.tree import ROOT, Node, StopReason, Tree
from treepo.utils.numeric import derive_seed


@dataclass(frozen=True, eq=False)
class UpdateBatch:
    """The trees of one update with their advantages."""

    trees: Sequence[Tree]
    advantages: Sequence[Advantages]

    @property
    def num_trajectories(self) -> int:
        """Leaves of all trees."""
        return sum(len(tree.leaves()) for tree in self.trees)

    @property
    def num_distinct(self) -> int:
        """Tokens with prompts, shared ones once."""
        return sum(len(tree.prompt_ids) + num_distinct(tree) for tree in self.trees)

    @property
    def num_total(self) -> int:
        """Tokens of all trajectories, each with its prompt."""
        return sum(len(t.prompt_ids) + t.response_len(leaf) for t in self.trees for leaf in t.leaves())


NOISE = 0.05
"""Standard deviation of log(ratio): like an engine's rounding and a few updates, well within PPO's clip range."""


def synthetic_batch(sizes: list[int], count: int, scorer: Scorer, max_tokens: int, seed: int) -> UpdateBatch:
    """`count` trees with levels of these sizes and advantages of both signs.

    scorer: of the trained model; its log-probabilities, with noise, become the sampled ones. max_tokens: per forward.
    """
    rng = np.random.default_rng(derive_seed(seed, "trees", *sizes))
    vocab_size = scorer.model.config.vocab_size
    trees = [_synthetic_tree(f"tree {i}", sizes, vocab_size, rng) for i in range(count)]
    for tree in trees:
        _score(tree, scorer, max_tokens, rng)
    drawn = [rng.standard_normal(len(tree.leaves())) for tree in trees]
    return UpdateBatch(trees, [Advantages(values - values.mean()) for values in drawn])


def _synthetic_tree(name: str, sizes: list[int], vocab_size: int, rng: np.random.Generator) -> Tree:
    """Half of the first level is the prompt; log-probabilities are 0 until they are scored."""
    trunk = random_ids(rng, vocab_size, sizes[0])
    prompt_len = sizes[0] // 2
    tree = Tree.from_prompt(name, trunk[:prompt_len], 0)

    def add(parent: int, ids: np.ndarray, stop: StopReason | None) -> int:
        return tree.add(Node(parent, ids.astype(np.int32), np.zeros(len(ids), np.float32), 0, stop))

    paths = [add(ROOT, trunk[prompt_len:], None)]
    for level, size in enumerate(sizes[1:], start=2):
        stop = StopReason.LENGTH if level == len(sizes) else None
        ids = random_ids(rng, vocab_size, size)
        boundaries = np.linspace(0, size, 2 * len(paths) + 1).astype(int)
        first, second = boundaries[:-1:2], boundaries[1::2]
        # Siblings that begin alike would be merged.
        while (alike := ids[second] == ids[first]).any():
            ids[second[alike]] = random_ids(rng, vocab_size, int(alike.sum()))
        paths = [add(paths[i // 2], ids[a:b], stop) for i, (a, b) in enumerate(pairwise(boundaries))]
    return tree


def _score(tree: Tree, scorer: Scorer, max_tokens: int, rng: np.random.Generator) -> None:
    """Set the log-probabilities of all tokens to the model's, with noise."""
    packed = pack(tree, np.zeros(len(tree.leaves())))
    found = scorer.logprobs([packed], max_tokens)[0] + NOISE * rng.standard_normal(len(packed.targets))
    starts = np.cumsum([0, *(len(node.token_ids) for node in tree.nodes)])
    logprobs = np.empty(starts[-1], np.float32)
    logprobs[starts[packed.target_nodes] + packed.target_offsets] = found
    for i, node in enumerate(tree.nodes[1:], start=1):
        tree.nodes[i] = replace(node, sampled_logprobs=logprobs[starts[i] : starts[i + 1]])


def grown_batches(config: UpdateBenchConfig, policy: Policy) -> Iterator[UpdateBatch]:
    """The batch of a first training step, per width. Raises SettingError if no tree carries a signal."""
    given = {"model": dataclasses.asdict(config.model), "train": {"seed": config.bench.seed}}
    for width in config.task.widths:
        run = resolve(BUILT_IN_TASK, given, {"tree": {"width": width}})
        engine = engine_for(run, policy)
        try:
            task = build_task(run, policy, engine.max_model_len)
            updater = build_updater(run, build_scorer(run, policy), build_reference(run, policy))
            trainer = build_trainer(run, policy, task, engine, updater)
            problems = task.training_problems(0, config.task.problems)
            trees = trainer.grow(problems, step=1)
            rewards = [verified.rewards for verified in trainer.verify(problems, trees)]
        finally:
            close_parts(engine)
        by_tree = compute_advantages(trees, rewards, run.credit).by_tree
        kept = [(tree, advantages) for tree, advantages in zip(trees, by_tree, strict=True) if advantages is not None]
        if not kept:
            reason = f"none of {len(trees)} trees of width {width} carries a signal: their rewards agree"
            raise SettingError("task", reason)
        yield UpdateBatch([tree for tree, _ in kept], [advantages for _, advantages in kept])

"""Balanced trees of random tokens, with as many distinct tokens and as much sharing as is asked for."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from treepo.bench.model import random_ids
from treepo.bench.update.workload import Workload
from treepo.learn.packing import pack
from treepo.learn.scoring import Scorer
from treepo.seeds import derive_seed
from treepo.tree import ROOT, Node, StopReason, Tree

TOLERANCE = 0.02
"""How far sizes may be off, as a fraction: a tree has a whole number of tokens."""

NOISE = 0.05
"""Standard deviation of log(ratio): what an engine's rounding and a few updates leave, well within PPO's bounds."""


def level_sizes(distinct: int, sharing: float, leaves: int) -> list[int]:
    """Tokens of each level of a balanced tree, from the stretch that all trajectories share to the leaves' own.

    With N = sharing x distinct / leaves tokens per trajectory and D forks on the way, all stretches between forks have
    one length but for the first, where much is shared, or the last, where little is. Raises ValueError if there is no
    such tree.
    """
    depth = leaves.bit_length() - 1
    if leaves != 1 << depth:
        raise ValueError(f"leaves must be a power of two, got {leaves}")
    length = sharing * distinct / leaves
    # distinct = length - depth x stretch + (2 + 4 + ... + leaves) x stretch
    stretch = (distinct - length) / (2 * leaves - 2 - depth)
    lengths = [length - depth * stretch, *[stretch] * depth]
    if lengths[0] < stretch:
        # distinct = (1 + 2 + ... + leaves / 2) x stretch + leaves x (length - depth x stretch)
        stretch = (sharing - 1) * distinct / (leaves * (depth - 1) + 1)
        lengths = [*[stretch] * depth, length - depth * stretch]
    sizes = [round(each * 2**level) for level, each in enumerate(lengths)]
    total = sum(size * leaves / 2**level for level, size in enumerate(sizes))
    fits = sizes[0] >= 2 and all(size >= 2**level for level, size in enumerate(sizes))
    if not fits or max(abs(sum(sizes) / distinct - 1), abs(total / (sharing * distinct) - 1)) > TOLERANCE:
        raise ValueError(f"no tree of {leaves} leaves has {distinct} distinct tokens and a sharing of {sharing:g}")
    return sizes


def synthetic_workload(sizes: list[int], count: int, scorer: Scorer, max_tokens: int, seed: int) -> Workload:
    """`count` trees with levels of these sizes and advantages of both signs.

    scorer: of the model that is trained; what it gives is kept as sampled, with noise. max_tokens: of one forward.
    """
    rng = np.random.default_rng(derive_seed(seed, "trees", *sizes))
    vocab_size = scorer.model.config.vocab_size
    trees = [_tree(f"tree {i}", sizes, vocab_size, rng) for i in range(count)]
    for tree in trees:
        _score(tree, scorer, max_tokens, rng)
    drawn = [rng.standard_normal(len(tree.leaves())) for tree in trees]
    return Workload(trees, [advantages - advantages.mean() for advantages in drawn])


def _tree(name: str, sizes: list[int], vocab_size: int, rng: np.random.Generator) -> Tree:
    """Half of the first stretch is the prompt; every token below it is numbered in place of its log-probability."""
    trunk = random_ids(rng, vocab_size, sizes[0])
    prompt_len = sizes[0] // 2
    tree = Tree.planted(name, trunk[:prompt_len], 0)
    num_tokens = 0

    def add(parent: int, ids: np.ndarray, stop: StopReason | None) -> int:
        nonlocal num_tokens
        start, num_tokens = num_tokens, num_tokens + len(ids)
        return tree.add(Node(parent, ids.astype(np.int32), np.arange(start, num_tokens, dtype=np.float32), 0, stop))

    paths = [add(ROOT, trunk[prompt_len:], None)]
    for level, size in enumerate(sizes[1:], start=2):
        stop = StopReason.LENGTH if level == len(sizes) else None
        ids = random_ids(rng, vocab_size, size)
        borders = np.linspace(0, size, 2 * len(paths) + 1).astype(int)
        first, second = borders[:-1:2], borders[1::2]
        # Siblings that begin alike would be merged.
        while (alike := ids[second] == ids[first]).any():
            ids[second[alike]] = random_ids(rng, vocab_size, int(alike.sum()))
        paths = [add(paths[i // 2], ids[a:b], stop) for i, (a, b) in enumerate(pairwise(borders))]
    return tree


def _score(tree: Tree, scorer: Scorer, max_tokens: int, rng: np.random.Generator) -> None:
    """Replace the numbers of the tokens by the model's log-probabilities, with noise."""
    packed = pack(tree, np.zeros(len(tree.leaves())))
    found = scorer.logprobs([packed], max_tokens)[0] + NOISE * rng.standard_normal(len(packed.targets))
    by_number = np.empty(len(found), np.float32)
    by_number[packed.sampled_logprobs.astype(int)] = found
    for i, node in enumerate(tree.nodes[1:], start=1):
        tree.nodes[i] = replace(node, sampled_logprobs=by_number[tree.logprobs(i).astype(int)])

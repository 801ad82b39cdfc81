"""Growing the trees of a batch of TRL's, and their rewards as advantages of its rows.

Letters: B rows · C longest completion.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from treepo.credit.base import Estimator
from treepo.data.problem import Problem
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams
from treepo.errors import SettingError, StrategyError
from treepo.grow import GrowthRules, TreeSampler
from treepo.learn.advantages import compute_advantages, in_whole_tree, rewarded_part
from treepo.tree import Tree
from treepo.utils.numeric import digest


def groups_of(prompt_ids: Sequence[Sequence[int]], size: int, setting: str) -> list[tuple[int, ...]]:
    """The prompt of each group of `size` rows; raises SettingError for `setting` if a group is not whole."""
    prompts = [tuple(map(int, ids)) for ids in prompt_ids]
    groups = prompts[::size]
    if len(prompts) % size or any(prompt != groups[i // size] for i, prompt in enumerate(prompts)):
        message = f"the {size} rows of a prompt must lie in one batch of one process, since they are one tree"
        raise SettingError(setting, message)
    return groups


def grow_trees(
    engine: Engine, rules: GrowthRules, sampling: SamplingParams, prompts: Sequence[tuple[int, ...]], seed: int
) -> list[Tree]:
    """One tree per prompt, in their order, each of `rules.shape.width` leaves; raises StrategyError otherwise."""
    problems = [Problem(digest(str(ids)).hex(), "", ids, "") for ids in prompts]
    grown = dict(TreeSampler(engine, rules, sampling).grow(problems, seed))
    trees, width = [grown[i] for i in range(len(problems))], rules.shape.width
    for tree in trees:
        if (num_leaves := len(tree.leaves())) != width:
            names = f"{type(rules.branching).__name__} and {type(rules.fallback).__name__}"
            raise StrategyError(f"branching, fallback: {names} gave a tree of {num_leaves} leaves, TRL needs {width}")
    return trees


def credit_rows(
    trees: Sequence[Tree],
    rewards: np.ndarray,
    estimator: Estimator,
    completion_len: int,
    processes: DistContext = SINGLE_PROCESS,
) -> Tensor:
    """Advantages float32 [B], or [B, C] of an estimator with values of nodes, 0 beyond a row's end.

    Rows are in the order of the trees and their leaves. 0 for a tree whose rewards agree, and for a leaf that has no
    reward (nan). rewards: float64 [trees, leaves]. completion_len: C. processes: those over which advantages are
    whitened.
    """
    parts = [rewarded_part(tree, own) for tree, own in zip(trees, rewards, strict=True)]
    found = compute_advantages([tree for tree, _ in parts], [own for _, own in parts], estimator, None, processes)
    values = np.zeros((*rewards.shape, completion_len) if estimator.per_node else rewards.shape, np.float32)
    for i, (tree, own, advantages) in enumerate(zip(trees, rewards, found.by_tree, strict=True)):
        if advantages is None:
            continue
        whole = in_whole_tree(advantages, tree, own)
        if not estimator.per_node:
            values[i] = whole.values
            continue
        for leaf, row in enumerate(whole.by_token(tree)):
            values[i, leaf, : len(row)] = row
    return torch.from_numpy(values).flatten(0, 1)

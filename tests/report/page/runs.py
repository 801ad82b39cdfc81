"""Run folders that no run made."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.trees import random_tree
from treepo.credit.base import Advantages
from treepo.credit.group import GRPO
from treepo.report.page.payload import RunFolder, ShownRun
from treepo.report.trees import KeptTree, write_trees


def letters(ids: Sequence[int]) -> str:
    return "".join("<&abc"[i] for i in ids)


def some_trees(seed: int, count: int, num_leaves: int = 4) -> list[KeptTree]:
    """Credited by GRPO."""
    rng = np.random.default_rng(seed)
    kept = []
    for i in range(count):
        tree = random_tree(rng, num_leaves, problem_id=f"problem {i}")
        rewards = np.arange(num_leaves, dtype=float)
        kept.append(KeptTree(tree, rewards, Advantages(GRPO()(tree, rewards))))
    return kept


def write_run(folder: Path, num_steps: int = 3, tree_steps: Sequence[int] = (), num_trees: int = 3) -> RunFolder:
    """A run as it stands after so many steps."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[credit]\nuse = "GRPO"\n[tree]\nwidth = 4\n')
    lines = [{"step": i, "reward/mean": i / 7, "tokens/decoded": 10} for i in range(num_steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in tree_steps:
        write_trees(folder / "trees" / f"step-{step:06d}.parquet", some_trees(step, num_trees), letters)
    return RunFolder(folder)


def shown(folder: RunFolder) -> ShownRun:
    return ShownRun(folder.path.name, folder, letters, lambda step, kept: {})

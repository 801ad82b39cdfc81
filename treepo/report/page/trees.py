"""The trees of a page: which of them fit into it, and the JSON of each."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from treepo.credit.base import Component, Estimator, SupportsComponents, sum_components, without_observed
from treepo.report.page.series import short, shorts, spread, thousandths
from treepo.report.page.token_texts import TokenTexts
from treepo.report.trees import Grading, KeptTree, count_trees, read_texts, read_trees
from treepo.tree import ROOT, Tree

TOLERANCE = 1e-9


@dataclass(frozen=True)
class AdvantageBreakdown:
    """Recomputes how the advantages of a run's trees came about.

    estimator: None if it is not available. name: its name in the settings. metrics: of the run by step; they hold the
    mean and the standard deviation by which a step's advantages were whitened.
    """

    estimator: Estimator | None
    name: str | None
    metrics: Mapping[int, Mapping[str, float]]

    def __call__(self, step: int, kept: KeptTree) -> dict[str, Any]:
        """The components of each advantage, and the mean and standard deviation of the whitening, if there was one.

        Components are per leaf, or per node if there is one advantage per node. They are None unless they add up to the
        advantages in the file, which may be those of other settings or of another version.
        """
        components, whitening = self._components(kept), self._whitening(step)
        if components is None or not _agree(kept, sum_components(components), whitening):
            return {"estimator": self.name, "components": None, "whitening": None}
        return {
            "estimator": self.name,
            "components": [[_component_json(component) for component in own] for own in components],
            "whitening": whitening and {"mean": short(whitening[0], 9), "std": short(whitening[1], 9)},
        }

    def _components(self, kept: KeptTree) -> list[list[Component]] | None:
        if kept.rewards is None or kept.advantages is None or not isinstance(self.estimator, SupportsComponents):
            return None
        try:
            return self.estimator.components(without_observed(kept.tree), kept.rewards)
        except Exception:  # noqa: BLE001 - the run's own code may raise anything, and the page needs nothing of it
            # An estimator that fails on these rewards did not compute the advantages.
            return None

    def _whitening(self, step: int) -> tuple[float, float] | None:
        if self.estimator is None or not self.estimator.whiten:
            return None
        metrics = self.metrics.get(step, {})
        return metrics.get("advantages/raw_mean", np.nan), metrics.get("advantages/raw_std", np.nan)


def _agree(kept: KeptTree, sums: np.ndarray, whitening: tuple[float, float] | None) -> bool:
    assert kept.advantages is not None
    advantages = kept.advantages.values
    if sums.shape != advantages.shape:
        return False
    if whitening is not None:
        sums = (sums - whitening[0]) / whitening[1]
    # Advantages without tokens are 0 after whitening.
    has_tokens = kept.advantages.token_counts(kept.tree) > 0
    return bool(np.allclose(sums[has_tokens], advantages[has_tokens], rtol=TOLERANCE, atol=TOLERANCE))


def _component_json(component: Component) -> dict[str, Any]:
    return {name: short(value) if isinstance(value, float) else value for name, value in vars(component).items()}


TREES_PER_STEP = 8
"""Steps are left out before a step has fewer trees than this."""

BASE64 = 4 / 3
"""Characters of the page per compressed byte."""

UNREADABLE = (OSError, ValueError, pa.ArrowException)
"""Errors of tree files that are damaged or not completely written."""

Breakdown = Callable[[int, KeptTree], dict[str, Any]]
"""(step, tree) -> the entries of `tree_json` about how its advantages were computed."""


Pieces = dict[str, int]
"""The distinct texts of tokens, numbered in the order of their first use."""


def tree_json(kept: KeptTree, texts: Sequence[Sequence[str]], pieces: Pieces) -> dict[str, Any]:
    """The tree as the page holds it; texts: per node as `TokenTexts.of` returns them, new ones are added to `pieces`.

    Lists are per node, per leaf (`rewards`, `advantages`), or per token below the prompt, node after node (`ids`,
    `logprobs`, `entropies`). Unknown values are None.
    """
    tree, advantages = kept.tree, kept.advantages
    nothing = [np.full(len(node.token_ids), np.nan, np.float32) for node in tree.nodes]
    logprobs = [
        own if node.sampled_logprobs is None else node.sampled_logprobs
        for node, own in zip(tree.nodes[ROOT + 1 :], nothing[ROOT + 1 :], strict=True)
    ]
    is_per_node = advantages is not None and advantages.per_node
    values = None
    if advantages is not None:
        values = shorts(advantages.node_means(tree) if is_per_node else advantages.values)
    return {
        "problem": tree.problem_id,
        "prompt": "".join(texts[ROOT]),
        "parents": [node.parent for node in tree.nodes],
        "lengths": [len(node.token_ids) for node in tree.nodes],
        "stops": [None if node.stop is None else str(node.stop) for node in tree.nodes],
        "resumed": [int(node.from_fallback) for node in tree.nodes],
        "ids": [pieces.setdefault(text, len(pieces)) for own in texts[ROOT + 1 :] for text in own],
        "logprobs": thousandths(np.concatenate([np.zeros(0), *logprobs])),
        "entropies": None if kept.entropies is None else thousandths(np.concatenate(kept.entropies[ROOT + 1 :])),
        "leaves": tree.leaves(),
        "rewards": None if kept.rewards is None else shorts(kept.rewards),
        "advantages": None if is_per_node else values,
        "node_advantages": values if is_per_node else None,
        "components": None,
        "whitening": None,
        "estimator": None,
        "num_dropped": tree.num_dropped,
        "num_fallbacks": tree.num_fallbacks,
        "grading": None if kept.grading is None else _grading_json(kept.grading),
        **_turns_json(tree),
    }


def _turns_json(tree: Tree) -> dict[str, Any]:
    """Per node whether it was observed, whose messages it holds, and what the environment gave; nothing for a tree
    without turns."""
    if not tree.has_turns:
        return {}
    return {
        "observed": [int(node.observed) for node in tree.nodes],
        "roles": [node.role for node in tree.nodes],
        "turn_rewards": [None if node.reward is None else short(node.reward) for node in tree.nodes],
    }


def _grading_json(grading: Grading) -> dict[str, Any]:
    """Lists are per leaf."""
    return {
        "question": grading.question,
        "ground_truth": grading.ground_truth,
        "extracted": list(grading.extracted_answers),
        "outcomes": list(grading.outcomes),
        "correct": shorts(grading.correct),
        "parts": {name: shorts(values) for name, values in grading.parts.items()},
        "extra": {name: [_shown(value) for value in values] for name, values in grading.extra.items()},
    }


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class TreeReader:
    """Reads trees as the page holds them.

    token_texts: None without a tokenizer; then the text of each node, from the file, stands at its first token.
    """

    token_texts: TokenTexts | None
    breakdown: Breakdown

    def read(self, step: int, path: Path, chosen: Sequence[int], pieces: Pieces) -> list[tuple[dict[str, Any], int]]:
        """The trees at the chosen places of a file, each with the number of characters that it takes in the page."""
        trees = read_trees(path, chosen)
        if self.token_texts is not None:
            texts = [self.token_texts.of(kept.tree) for kept in trees]
        else:
            own = read_texts(path, chosen)
            texts = [_undivided(kept.tree, nodes) for kept, nodes in zip(trees, own, strict=True)]
        return [self._sized(step, kept, nodes, pieces) for kept, nodes in zip(trees, texts, strict=True)]

    def _sized(self, step: int, kept: KeptTree, texts: list[list[str]], pieces: Pieces) -> tuple[dict[str, Any], int]:
        num_pieces = len(pieces)
        tree = tree_json(kept, texts, pieces) | self.breakdown(step, kept)
        written = json.dumps([tree, list(pieces)[num_pieces:]])
        return tree, int(BASE64 * len(zlib.compress(written.encode())))


@dataclass
class ChosenTrees:
    """Trees by step in ascending order, the texts of their tokens, and notes on what was left out."""

    pieces: Pieces = field(default_factory=dict)
    steps: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose_trees(files: Mapping[int, Path], budget: int, reader: TreeReader) -> ChosenTrees:
    """Trees of the newest step and of others, within `budget` characters; steps and trees are at even distances.

    files: by step in ascending order.
    """
    chosen, unreadable, left = ChosenTrees(), [], budget
    wanted, per_step = _wanted(files, budget, reader)
    num_trees, num_chosen = 0, 0
    # The newest first: the others get what it leaves of its share.
    for num_done, step in enumerate(reversed(wanted)):
        share = left // (len(wanted) - num_done)
        try:
            count = count_trees(files[step])
            places = spread(range(count), per_step)
            trees, size = _within(reader.read(step, files[step], places, chosen.pieces), share)
        except UNREADABLE:
            unreadable.append(step)
            continue
        left -= size
        num_trees, num_chosen = num_trees + count, num_chosen + len(trees)
        chosen.steps[step] = trees
    chosen.steps = dict(sorted(chosen.steps.items()))
    if len(wanted) < len(files):
        chosen.notes.append(f"trees of {len(wanted)} of {len(files)} steps")
    if num_chosen < num_trees:
        chosen.notes.append(f"{num_chosen} of {num_trees} trees of these steps")
    if unreadable:
        chosen.notes.append(f"trees that cannot be read: of step {', '.join(map(str, sorted(unreadable)))}")
    return chosen


def _wanted(files: Mapping[int, Path], budget: int, reader: TreeReader) -> tuple[list[int], int]:
    """(steps, trees per step) that fit if all trees are as large as some of the newest step."""
    for step in reversed(list(files)):
        try:
            places = spread(range(count_trees(files[step])), TREES_PER_STEP)
            sizes = [size for _, size in reader.read(step, files[step], places, {})]
        except UNREADABLE:
            continue
        if not sizes:
            continue
        affordable = int(budget * len(sizes) / max(sum(sizes), 1))
        steps = spread(list(files), max(affordable // TREES_PER_STEP, 1))
        return steps, max(affordable // len(steps), 1)
    return list(files), 1


def _within(sized: Sequence[tuple[dict[str, Any], int]], share: int) -> tuple[list[dict[str, Any]], int]:
    """The trees that fit into a share, in order, and their total size."""
    kept, total = [], 0
    for tree, size in sized:
        if total + size <= share:
            kept.append(tree)
            total += size
    return kept, total


def _undivided(tree: Tree, texts: Sequence[str]) -> list[list[str]]:
    spare = [max(len(node.token_ids) - 1, 0) for node in tree.nodes]
    return [[text, *[""] * count] for text, count in zip(texts, spare, strict=True)]

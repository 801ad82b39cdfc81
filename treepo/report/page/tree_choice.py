"""Numbers as the page holds them: finite and short, or null."""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from treepo.report.page.token_texts import TokenTexts
from treepo.report.trees import KeptTree, count_trees, read_texts, read_trees
from treepo.tree import ROOT, Tree


def short(value: float, digits: int = 6) -> float | None:
    """With so many significant digits; None for what is not finite."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    # Whole numbers are a character shorter without their ".0".
    return int(rounded) if rounded.is_integer() else rounded


def shorts(values: Iterable[float]) -> list[float | None]:
    return [short(value) for value in values]


def thousandths(values: np.ndarray) -> list[float | None]:
    """Rounded to three decimals."""
    # A float32 that is rounded is still one, and written with all the digits of the float64 next to it.
    rounded = np.round(values.astype(np.float64), 3).tolist()
    return [(value or 0) if math.isfinite(value) else None for value in rounded]


T = TypeVar("T")

MAX_POINTS = 2000

SECONDS = ("time/step_s", "time/checkpoint_s")


@dataclass(frozen=True)
class Series:
    """Values by name, aligned with `steps`, None where there is none. tokens, seconds: decoded, and taken by training,
    from the beginning to each step. note: what was left out, or empty."""

    steps: list[int]
    metrics: dict[str, list[float | None]]
    tokens: list[float | None]
    seconds: list[float | None]
    note: str


def series_of(metrics: Mapping[int, Mapping[str, float]], max_points: int = MAX_POINTS) -> Series:
    """All of them, at no more than `max_points` steps: evaluated ones first, the rest at even distances."""
    every = list(metrics)
    steps = thinned(every, [step for step in every if "eval/avg" in metrics[step]], max_points)
    names = dict.fromkeys(name for step in steps for name in metrics[step])
    values = {name: [short(metrics[step][name]) if name in metrics[step] else None for step in steps] for name in names}
    tokens = _so_far(metrics, ("tokens/decoded",))
    seconds = _so_far(metrics, SECONDS)
    note = f"metrics at {len(steps)} of {len(every)} steps" if len(steps) < len(every) else ""
    return Series(steps, values, shorts(tokens[s] for s in steps), shorts(seconds[s] for s in steps), note)


def thinned(steps: Sequence[int], wanted: Sequence[int], most: int) -> list[int]:
    """At most so many steps, in their order, the first and the last among them: of those that are wanted up to half as
    many, and of the others as many as there is room for, each at even distances."""
    if len(steps) <= most:
        return list(steps)
    chosen = set(spread(wanted, most // 2))
    others = [step for step in steps if step not in chosen]
    return sorted(chosen | set(spread(others, most - len(chosen))))


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many at even distances, the first and the last among them, or all if they are no more; of one, the last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int).tolist()]


def _so_far(metrics: Mapping[int, Mapping[str, float]], names: Sequence[str]) -> dict[int, float]:
    sums = accumulate(sum(own.get(name, 0.0) for name in names) for own in metrics.values())
    return dict(zip(metrics, sums, strict=True))


@dataclass
class Pieces:
    """The texts of tokens, each once, in the order in which they came."""

    texts: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def index(self, text: str) -> int:
        place = self.places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return place


def tree_json(kept: KeptTree, texts: Sequence[Sequence[str]], pieces: Pieces) -> dict[str, Any]:
    """The tree with the texts of its tokens, per node as `TokenTexts.of` has them; new ones are added to `pieces`.

    Lists are per node, per leaf (`rewards`, `advantages`), or per token below the prompt, node after node (`ids`,
    `logprobs`, `entropies`). What is not known is None.
    """
    tree, advantages = kept.tree, kept.advantages
    below = tree.nodes[ROOT + 1 :]
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
        "ids": [pieces.index(text) for own in texts[ROOT + 1 :] for text in own],
        "logprobs": thousandths(np.concatenate([np.zeros(0), *(_scores(node.sampled_logprobs) for node in below)])),
        "entropies": None if kept.entropies is None else thousandths(np.concatenate(kept.entropies[ROOT + 1 :])),
        "leaves": tree.leaves(),
        "rewards": None if kept.rewards is None else shorts(kept.rewards),
        "advantages": None if is_per_node else values,
        "node_advantages": values if is_per_node else None,
        "terms": None,
        "whitening": None,
        "estimator": None,
        "num_dropped": tree.num_dropped,
        "num_fallbacks": tree.num_fallbacks,
    }


def _scores(values: np.ndarray | None) -> np.ndarray:
    assert values is not None, "only the prompt is not scored"
    return values


TREES_PER_STEP = 8
"""Steps are left out before steps have fewer trees than that."""

BASE64 = 4 / 3
"""Characters of the page for a compressed byte."""

UNREADABLE = (OSError, ValueError, pa.ArrowException)
"""What is raised by files of trees that are damaged, or not written to their end."""

Explain = Callable[[int, KeptTree], dict[str, Any]]
"""(step, tree) -> what is to stand beside its nodes: how its advantages came about."""


@dataclass(frozen=True)
class TreeReader:
    """Reads trees as the page has them. token_texts: None where there is no tokenizer: then each node has one text, as
    its file has it, in the place of its first token."""

    token_texts: TokenTexts | None
    explain: Explain

    def read(self, step: int, path: Path, chosen: Sequence[int], pieces: Pieces) -> list[tuple[dict[str, Any], int]]:
        """The trees at the chosen places of a file, each with the characters of the page that it takes."""
        trees = read_trees(path, chosen)
        if self.token_texts is not None:
            texts = [self.token_texts.of(kept.tree) for kept in trees]
        else:
            own = read_texts(path, chosen)
            texts = [_undivided(kept.tree, nodes) for kept, nodes in zip(trees, own, strict=True)]
        return [self._sized(step, kept, nodes, pieces) for kept, nodes in zip(trees, texts, strict=True)]

    def _sized(self, step: int, kept: KeptTree, texts: list[list[str]], pieces: Pieces) -> tuple[dict[str, Any], int]:
        num_pieces = len(pieces.texts)
        tree = tree_json(kept, texts, pieces) | self.explain(step, kept)
        written = json.dumps([tree, pieces.texts[num_pieces:]])
        return tree, int(BASE64 * len(zlib.compress(written.encode())))


@dataclass
class Chosen:
    """Trees by step, steps rising; the texts of their tokens; in lines what was left out."""

    pieces: Pieces = field(default_factory=Pieces)
    steps: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose_trees(files: Mapping[int, Path], budget: int, reader: TreeReader) -> Chosen:
    """The newest step and others at even distances, of each some trees at even distances, within `budget` characters.

    files: of each step, steps rising.
    """
    chosen, unreadable, left = Chosen(), [], budget
    wanted, per_step = _wanted(files, budget, reader)
    num_trees, num_chosen = 0, 0
    # The newest first: what it leaves of its share is for the others.
    for num_done, step in enumerate(reversed(wanted)):
        share = left // (len(wanted) - num_done)
        try:
            count = count_trees(files[step])
            trees, size = _within(reader.read(step, files[step], spread(range(count), per_step), chosen.pieces), share)
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
    """(steps, trees of each) that would fit if all trees took as much as some of the newest step do."""
    for step in reversed(list(files)):
        try:
            places = spread(range(count_trees(files[step])), TREES_PER_STEP)
            sizes = [size for _, size in reader.read(step, files[step], places, Pieces())]
        except UNREADABLE:
            continue
        if not sizes:
            continue
        affordable = int(budget * len(sizes) / max(sum(sizes), 1))
        steps = spread(list(files), max(affordable // TREES_PER_STEP, 1))
        return steps, max(affordable // len(steps), 1)
    return list(files), 1


def _within(sized: Sequence[tuple[dict[str, Any], int]], share: int) -> tuple[list[dict[str, Any]], int]:
    """The trees that fit into a share, one after the other, and what they take."""
    kept, total = [], 0
    for tree, size in sized:
        if total + size <= share:
            kept.append(tree)
            total += size
    return kept, total


def _undivided(tree: Tree, texts: Sequence[str]) -> list[list[str]]:
    spare = [max(len(node.token_ids) - 1, 0) for node in tree.nodes]
    return [[text, *[""] * count] for text, count in zip(texts, spare, strict=True)]

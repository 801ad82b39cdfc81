"""Which of a run's trees a page holds: those that fit into so many characters of it."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from treepo.report.page.series import spread
from treepo.report.page.token_texts import TokenTexts
from treepo.report.page.tree_json import Pieces, tree_json
from treepo.report.trees import KeptTree, count_trees, read_texts, read_trees
from treepo.tree import Tree

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

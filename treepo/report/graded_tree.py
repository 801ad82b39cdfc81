"""A tree that was graded, in the terminal: the question, where its answers part, and which of them are right."""

from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from treepo.data.problem import Outcome
from treepo.report.tree_view import TreeView, summary, visible_text
from treepo.report.trees import Grading, KeptTree

MAX_TOKENS = 1_000
"""Of a tree that is chosen: it has to fit on a screen or two."""


def telling_tree(trees: Sequence[KeptTree]) -> KeptTree | None:
    """The tree whose answers are most evenly right and wrong, and the shortest one of these.

    None without one that was graded and is not too long to be shown.
    """
    found, rank = None, (2.0, 0)
    for kept in trees:
        num_tokens, grading = kept.tree.num_decoded(), kept.grading
        if grading is None or not 0 < num_tokens <= MAX_TOKENS or set(grading.outcomes) == {Outcome.UNVERIFIED.value}:
            continue
        own = abs(float(grading.correct.mean()) - 0.5), num_tokens
        if own < rank:
            found, rank = kept, own
    return found


def show_graded_tree(kept: KeptTree, decode: Callable[[Sequence[int]], str], console: Console) -> None:
    """Print a graded tree and its summary. decode: token ids to text."""
    tree, grading, advantages = kept.tree, kept.grading, kept.leaf_advantages()
    assert grading is not None
    head = visible_text(grading.question, console.encoding)
    head.append(visible_text(f"  (known answer: {grading.ground_truth})", console.encoding))
    notes = {leaf: _note(grading, advantages, place) for place, leaf in enumerate(tree.leaves())}
    console.print(TreeView(tree, decode, head, notes), crop=False)
    console.print(summary(tree), markup=False, emoji=False, highlight=False, soft_wrap=True)


def _note(grading: Grading, advantages: np.ndarray | None, place: int) -> Text:
    """The verdict on a leaf, and what it is worth in training."""
    correct, outcome = float(grading.correct[place]), grading.outcomes[place]
    if outcome != Outcome.GRADED.value:
        note = Text(outcome, style="yellow")
    elif correct == 1:
        note = Text("right", style="bold green")
    else:
        note = Text("wrong" if correct == 0 else f"{correct:.2g} right", style="bold red")
    return note if advantages is None else note.append(f", {advantages[place]:+.2f}")

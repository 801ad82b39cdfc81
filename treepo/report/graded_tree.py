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
    """The tree whose rewards differ most, and the shortest one of these; None without one that is not too long."""
    shown = [kept for kept in trees if kept.grading is not None and 0 < kept.tree.num_decoded() <= MAX_TOKENS]
    return min(shown, key=lambda kept: (-_spread(kept.rewards), kept.tree.num_decoded()), default=None)


def _spread(rewards: np.ndarray | None) -> float:
    """The standard deviation of the rewards that there are."""
    known = [] if rewards is None else rewards[np.isfinite(rewards)]
    return float(np.std(known)) if len(known) else 0.0


def show_graded_tree(kept: KeptTree, decode: Callable[[Sequence[int]], str], console: Console) -> None:
    """Print a graded tree and its summary. decode: token ids to text."""
    tree, grading = kept.tree, kept.grading
    assert grading is not None, "the tree was graded"
    head = visible_text(grading.question, console.encoding)
    if grading.ground_truth:
        head.append(visible_text(f"  (known answer: {grading.ground_truth})", console.encoding))
    notes = {leaf: _note(kept, grading, place) for place, leaf in enumerate(tree.leaves())}
    console.print(TreeView(tree, decode, head, notes), crop=False)
    console.print(summary(tree), markup=False, emoji=False, highlight=False, soft_wrap=True)


def _note(kept: KeptTree, grading: Grading, place: int) -> Text:
    """The verdict on a leaf, or its reward where nothing is verified, and its advantage."""
    correct, outcome, advantages = float(grading.correct[place]), grading.outcomes[place], kept.leaf_advantages()
    if outcome == Outcome.UNVERIFIED.value and kept.rewards is not None:
        reward = kept.rewards[place]
        note = Text(f"reward {reward:.3g}") if np.isfinite(reward) else Text("no reward", style="yellow")
    elif outcome != Outcome.GRADED.value:
        note = Text(outcome, style="yellow")
    elif correct == 1:
        note = Text("right", style="bold green")
    else:
        note = Text("wrong" if correct == 0 else f"{correct:.2g} right", style="bold red")
    return note if advantages is None else note.append(f", {advantages[place]:+.2f}")

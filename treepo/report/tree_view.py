"""A tree in the terminal: it branches where paths forked; segments between two forks are shown as one text."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from rich.tree import Tree as Branches

from treepo.tree import ROOT, Tree
from treepo.utils.text import sanitize

INDENT = 4
"""Columns by which rich indents a branch."""

MIN_TEXT_WIDTH = 40
"""Columns that the deepest text gets, even if the terminal has to wrap them."""


@dataclass(frozen=True, eq=False)
class TreeView:
    """Shows the prompt, what was decoded below it, and at each leaf why it ended after how many tokens; what was
    observed is in italics.

    What a branch has in common with the branch above it, at the same fork, is dim: the rest is where answers part.
    decode: token ids to text. head: what stands for the prompt, if given. notes: by leaf, what is said of it before its
    end. Print it with crop=False: a deep tree may be wider than the terminal.
    """

    tree: Tree
    decode: Callable[[Sequence[int]], str]
    head: Text | None = None
    notes: Mapping[int, Text] = field(default_factory=dict)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        branches, depth = self._branches(options.encoding)
        # rich silently drops text that has no columns left.
        width = max(options.max_width, INDENT * depth + MIN_TEXT_WIDTH)
        yield from console.render(branches, options.update_width(width))

    def _branches(self, encoding: str) -> tuple[Branches, int]:
        """What rich shows, and how deep it branches."""
        children = self.tree.children()
        head = self.head or visible_text(self._text([ROOT]), encoding)
        root = Branches(Text.assemble(head, style="bold"))
        waiting, depth = [(root, children[ROOT], 1)], 0
        while waiting:
            above, siblings, level = waiting.pop()
            before = ""
            for index in siblings:
                run = [index]
                while len(children[run[-1]]) == 1:
                    run += children[run[-1]]
                text = self._text(run)
                branch = above.add(self._label(run, _common(before, text), encoding))
                waiting.append((branch, children[run[-1]], level + 1))
                before, depth = text, max(depth, level)
        return root, depth

    def _text(self, run: Sequence[int]) -> str:
        """The text of nodes that follow each other without a fork, decoded as one."""
        return "".join(text for text, _ in self._parts(run))

    def _parts(self, run: Sequence[int]) -> list[tuple[str, bool]]:
        """(text, whether it was observed) of what was sampled and what was observed, by turns."""
        parts = []
        for observed, nodes in groupby(run, lambda i: self.tree.nodes[i].observed):
            token_ids = np.concatenate([self.tree.nodes[i].token_ids for i in nodes])
            parts.append((self.decode(token_ids.tolist()), observed))
        return parts

    def _label(self, run: Sequence[int], num_common: int, encoding: str) -> Text:
        """What stands on a branch. num_common: characters in common with the branch above."""
        label, num_dim, last = Text(), num_common, run[-1]
        for text, observed in self._parts(run):
            label.append_text(visible_text(text, encoding, num_dim, "italic" if observed else ""))
            num_dim = max(num_dim - len(text), 0)
        if stop := self.tree.nodes[last].stop:
            end = Text(f"{stop}, {_tokens(self.tree.response_len(last))}")
            notes = [self.notes[last], end] if last in self.notes else [end]
            label.append(Text("  [", style="cyan")).append(Text(", ").join(notes)).append("]")
        return label


def _common(first: str, second: str) -> int:
    """Characters that two texts begin with, in whole words."""
    num_same = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if num_same is None:
        return min(len(first), len(second))
    return num_same - len(re.split(r"\s", first[:num_same])[-1])


def show_tree(tree: Tree, decode: Callable[[Sequence[int]], str], console: Console | None = None) -> None:
    """Print a tree and its summary. decode: token ids to text. console: the terminal if not given."""
    console = console or Console()
    console.print(TreeView(tree, decode), crop=False)
    if tree.leaves():
        console.print(summary(tree), markup=False, emoji=False, highlight=False, soft_wrap=True)


def visible_text(text: str, encoding: str = "utf-8", num_dim: int = 0, style: str = "") -> Text:
    r"""Untrusted text without markup, whose line breaks, tabs and what `sanitize` escapes are dim escape sequences.

    After a \n that something follows, a new line begins. num_dim: characters at its beginning that are dim, too.
    """
    shown = Text(style=style)
    for position, character in enumerate(text):
        safe = sanitize(character, multiline=character not in "\n\t", encoding=encoding)
        shown.append(safe, style="" if safe == character and position >= num_dim else "dim")
        if character == "\n" and position + 1 < len(text):
            shown.append("\n")
    return shown


def summary(tree: Tree) -> str:
    """One line: trajectories, what they cost against sequential sampling, why they ended."""
    leaves = tree.leaves()
    decoded, total = tree.num_decoded(), sum(tree.response_len(leaf) for leaf in leaves)
    stops = Counter(str(tree.nodes[leaf].stop) for leaf in leaves)
    trajectories = "1 trajectory" if len(leaves) == 1 else f"{len(leaves)} trajectories"
    return (
        f"{trajectories}: {_tokens(decoded)} decoded, {total:,} by sequential sampling "
        f"({1 - decoded / total:.0%} saved); {', '.join(f'{reason} {n}' for reason, n in stops.most_common())}"
    )


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' * (count != 1)}"

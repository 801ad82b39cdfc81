"""A tree in the terminal: it branches where paths forked; segments between two forks are shown as one text."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

    decode: token ids to text. Print it with crop=False: a deep tree may be wider than the terminal.
    """

    tree: Tree
    decode: Callable[[Sequence[int]], str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        branches, depth = self._branches(options.encoding)
        # rich silently drops text that has no columns left.
        width = max(options.max_width, INDENT * depth + MIN_TEXT_WIDTH)
        yield from console.render(branches, options.update_width(width))

    def _branches(self, encoding: str) -> tuple[Branches, int]:
        """What rich shows, and how deep it branches."""
        children = self.tree.children()
        root = Branches(self._label([ROOT], encoding))
        waiting, depth = [(root, child, 1) for child in reversed(children[ROOT])], 0
        while waiting:
            above, index, level = waiting.pop()
            run = [index]
            while len(children[run[-1]]) == 1:
                run += children[run[-1]]
            branch = above.add(self._label(run, encoding))
            waiting += [(branch, child, level + 1) for child in reversed(children[run[-1]])]
            depth = max(depth, level)
        return root, depth

    def _label(self, run: Sequence[int], encoding: str) -> Text:
        """The text of nodes that follow each other without a fork, decoded as one."""
        last = self.tree.nodes[run[-1]]
        label = Text()
        for observed, part in groupby(run, lambda i: self.tree.nodes[i].observed):
            token_ids = np.concatenate([self.tree.nodes[i].token_ids for i in part])
            label.append_text(visible_text(self.decode(token_ids.tolist()), encoding, "italic" if observed else ""))
        if run == [ROOT]:
            label.stylize("bold")
        if last.stop is not None:
            label.append(f"  [{last.stop}, {_tokens(self.tree.response_len(run[-1]))}]", style="cyan")
        return label


def show_tree(tree: Tree, decode: Callable[[Sequence[int]], str], console: Console | None = None) -> None:
    """Print a tree and its summary. decode: token ids to text. console: the terminal if not given."""
    console = console or Console()
    console.print(TreeView(tree, decode), crop=False)
    if tree.leaves():
        console.print(summary(tree), markup=False, emoji=False, highlight=False, soft_wrap=True)


def visible_text(text: str, encoding: str = "utf-8", style: str = "") -> Text:
    r"""Untrusted text without markup, whose line breaks, tabs and what `sanitize` escapes are dim escape sequences.

    After a \n that something follows, a new line begins.
    """
    shown = Text(style=style)
    for position, character in enumerate(text):
        safe = sanitize(character, multiline=character not in "\n\t", encoding=encoding)
        shown.append(safe, style="" if safe == character else "dim")
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

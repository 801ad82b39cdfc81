"""A tree in the terminal: it branches where paths forked; segments between two forks are shown as one text."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from rich.tree import Tree as Branches

from treepo.envs.transcript import MODEL, text_of, turn_parts
from treepo.tree import ROOT, Tree
from treepo.utils.text import pluralize, sanitize

INDENT = 4
"""Columns by which rich indents a branch."""

MIN_TEXT_WIDTH = 40
"""Columns that the deepest text gets, even if the terminal has to wrap them."""


@dataclass(frozen=True, eq=False)
class TreeView:
    """Shows the prompt, what was decoded below it, and at each leaf why it ended after how many tokens. Of several
    turns what was observed has lines of its own, in italics behind its role, and each turn the reward that it got.

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
        return "".join(text_of(self.tree, nodes, self.decode) for _, nodes in turn_parts(self.tree, run))

    def _label(self, run: Sequence[int], num_common: int, encoding: str) -> Text:
        """What stands on a branch. num_common: characters in common with the branch above."""
        label, num_dim, last = Text(), num_common, run[-1]
        for role, nodes in turn_parts(self.tree, run):
            text = text_of(self.tree, nodes, self.decode)
            if role == MODEL:
                label.append_text(visible_text(text, encoding, num_dim))
            else:
                label.append_text(self._observed(role, nodes[0], text, encoding)).append("\n" * (nodes[-1] != last))
            num_dim = max(num_dim - len(text), 0)
        if stop := self.tree.nodes[last].stop:
            end = Text(f"{stop}, {pluralize(self.tree.response_len(last), 'token')}{self._turns(last)}")
            notes = [self.notes[last], end] if last in self.notes else [end]
            label.append(Text("  [", style="cyan")).append(Text(", ").join(notes)).append("]")
        return label

    def _observed(self, role: str, node: int, text: str, encoding: str) -> Text:
        """What a turn got, and what was observed after it, without the blanks around it."""
        reward = self.tree.nodes[node].reward
        head = Text() if reward is None else Text(f"  [reward {reward:.3g}]", style="cyan")
        head.append("\n[", style="cyan").append_text(visible_text(role, encoding, style="cyan")).append("] ", "cyan")
        return head.append_text(visible_text(text.strip(), encoding, style="italic"))

    def _turns(self, leaf: int) -> str:
        """How many turns a trajectory had, and what it got for them; nothing where it had one without a reward."""
        rewards, num_turns = self.tree.turn_rewards(leaf), len(self.tree.turn_starts(leaf))
        if num_turns == 1 and not rewards:
            return ""
        given = " + ".join(f"{reward:.3g}" for reward in rewards).replace("+ -", "- ")
        total = f" = {sum(rewards):.3g}" if len(rewards) > 1 else ""
        return f", {pluralize(num_turns, 'turn')}" + (f", reward {given}{total}" if rewards else "")


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
    return (
        f"{pluralize(len(leaves), 'trajectory', 'trajectories')}: {pluralize(decoded, 'token')} decoded, "
        f"{total:,} by sequential sampling "
        f"({1 - decoded / total:.0%} saved); {', '.join(f'{reason} {n}' for reason, n in stops.most_common())}"
        f"{_observed_tokens(tree)}"
    )


def _observed_tokens(tree: Tree) -> str:
    if not tree.has_turns:
        return ""
    count, num_turns = len(tree.leaves()), sum(len(tree.turn_starts(leaf)) for leaf in tree.leaves())
    observed = sum(len(node.token_ids) for node in tree.nodes if node.observed)
    return f"; {num_turns / count:.1f} turns each, {pluralize(observed, 'token')} observed"

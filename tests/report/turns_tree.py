"""A tree over several turns whose texts can be read, as an environment would leave it."""

from dataclasses import replace

import numpy as np

from tests.trees import add_segment
from treepo.report.trees import KeptTree
from treepo.tree import ROOT, Node, StopReason, Tree


class Spelled:
    """Texts as tokens, one per word."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def ids(self, text: str) -> list[int]:
        self.words += (own := [f"{word} " for word in text.split(" ")])
        return list(range(len(self.words) - len(own), len(self.words)))

    def decode(self, ids) -> str:
        return "".join(self.words[i] for i in ids)


def turns_tree(role: str = "user") -> tuple[KeptTree, Spelled]:
    """Two turns; the second forks where it begins, and one of its paths forks again within it. The environment gave
    -0.1 for the first turn, then 1 and 0, and failed in the third path; the fourth was cut off in its first turn."""
    spelled = Spelled()
    tree = Tree.from_prompt("maze", np.array(spelled.ids("You are in a maze. Where to?"), np.int32), 0)
    first = add_segment(tree, ROOT, spelled.ids("I think I go west."))
    reply = np.array(spelled.ids("There is a wall."), np.int32)
    start = tree.add(Node(first, reply, None, 0, observed=True, reward=-0.1, role=role))
    won = add_segment(tree, start, spelled.ids("Then I go east."), StopReason.ENV_DONE)
    inner = add_segment(tree, start, spelled.ids("Let me"))
    lost = add_segment(tree, inner, spelled.ids("try south."), StopReason.ENV_DONE)
    add_segment(tree, inner, spelled.ids("break it."), StopReason.ENV_ERROR)
    add_segment(tree, ROOT, spelled.ids("Well, well, well,"), StopReason.LENGTH)
    for leaf, reward in ((won, 1.0), (lost, 0.0)):
        tree.nodes[leaf] = replace(tree.nodes[leaf], reward=reward)
    rewards = np.array([0.9, -0.1, np.nan, 0.0])
    return KeptTree(tree, rewards), spelled

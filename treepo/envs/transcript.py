"""Who wrote what on a path over several turns, and what the environment gave for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from treepo.tree import Tree

MODEL = "assistant"
"""The role of what was sampled."""

ENVIRONMENT = "environment"
"""Stands for the roles of what was observed where they are not known."""

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class TurnText:
    """One turn. role: MODEL, or the roles of the messages that were observed. reward: what the environment gave for a
    turn of the model; None where it gave nothing."""

    role: str
    text: str
    reward: float | None = None


def roles_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The roles of some messages with the names that they bear: `user`, `tool calculator`."""
    named = (f"{message['role']} {message.get('name') or ''}".strip() for message in messages)
    return ", ".join(dict.fromkeys(named))


def turn_parts(tree: Tree, nodes: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """(role, nodes that follow each other) of what was sampled and what was observed, by turns."""
    for observed, group in groupby(nodes, lambda i: tree.nodes[i].observed):
        own = list(group)
        yield (tree.nodes[own[0]].role or ENVIRONMENT) if observed else MODEL, own


def text_of(tree: Tree, nodes: Sequence[int], decode: Decode) -> str:
    """The text of nodes that follow each other, decoded as one."""
    return decode(np.concatenate([tree.nodes[i].token_ids for i in nodes]).tolist())


def transcript(tree: Tree, leaf: int, decode: Decode) -> list[TurnText]:
    """The turns on the path to a leaf, without the prompt; empty for a tree that has none."""
    if not tree.has_turns:
        return []
    path = tree.path(leaf)[1:]
    # What was given for a turn stands at the reply to it.
    after = dict(pairwise(path))
    turns = []
    for role, nodes in turn_parts(tree, path):
        reward = tree.nodes[after.get(nodes[-1], leaf)].reward if role == MODEL else None
        turns.append(TurnText(role, text_of(tree, nodes, decode), reward))
    return turns

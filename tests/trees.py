"""Builders of trees that no engine grew."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from treepo.tree import ROOT, TURN_STOPS, Node, StopReason, Tree
from treepo.utils.numeric import derive_seed

STOPS = tuple(reason for reason in StopReason if reason not in TURN_STOPS)


def logprobs_of(prefix_ids: Sequence[int], token_ids: Sequence[int]) -> np.ndarray:
    """float32 [n]: a made-up log-probability per token, a function of all ids up to it, so equal prefixes agree."""
    ids = [*map(int, prefix_ids), *map(int, token_ids)]
    first = len(ids) - len(token_ids)
    scores = [derive_seed(*ids[: i + 1]) / 2**63 for i in range(first, len(ids))]
    return -3 * np.array(scores, np.float32)


def add_segment(
    tree: Tree,
    parent: int,
    token_ids: Sequence[int],
    stop: StopReason | None = None,
    seed: int = 0,
    from_fallback: bool = False,
) -> int:
    """Append a segment with made-up log-probabilities below `parent` and return its index."""
    tokens = np.array(token_ids, np.int32)
    return tree.add(Node(parent, tokens, logprobs_of(tree.ids(parent), tokens), seed, stop, from_fallback))


def random_tree(
    rng: np.random.Generator,
    num_leaves: int,
    vocab: int = 5,
    segment_len: int = 4,
    max_segments: int = 3,
    fallback: float = 0.3,
    alike: float = 0.5,
    problem_id: str = "random",
) -> Tree:
    """A random tree with exactly `num_leaves` leaves and token ids in 0..vocab-1.

    Paths are added one by one below a random inner node, or (probability `fallback`) below a cut at a random token
    of a finished trajectory, which splits a node where it falls inside one. With probability `alike` a segment begins
    with tokens of a sibling, and may repeat all of it.
    """
    tree = Tree.from_prompt(problem_id, rng.integers(vocab, size=rng.integers(1, 5)), seed=0)
    for _ in range(num_leaves):
        leaves = tree.leaves()
        resumes = bool(leaves) and rng.random() < fallback
        if resumes:
            leaf = int(rng.choice(leaves))
            node = tree.cut(leaf, int(rng.integers(tree.response_len(leaf))))
        else:
            node = int(rng.choice([i for i, n in enumerate(tree.nodes) if n.stop is None]))
        num_segments = int(rng.integers(1, max_segments + 1))
        for i in range(num_segments):
            tokens = rng.integers(vocab, size=rng.integers(1, segment_len + 1))
            siblings = tree.children()[node]
            if siblings and rng.random() < alike:
                sibling = tree.nodes[int(rng.choice(siblings))].token_ids
                common = int(rng.integers(1, len(sibling) + 1))
                tokens = np.concatenate([sibling[:common], tokens[: int(rng.integers(len(tokens) + 1))]])
            stop = STOPS[int(rng.integers(len(STOPS)))] if i == num_segments - 1 else None
            node = add_segment(tree, node, tokens, stop, int(rng.integers(2**62)), resumes and i == 0)
    return tree


def with_observed(tree: Tree, rng: np.random.Generator, share: float = 0.4) -> Tree:
    """The same tree, some of whose inner nodes were observed, with a reward for the turn above or without one."""
    nodes = list(tree.nodes)
    for i, node in enumerate(nodes):
        if i != ROOT and node.stop is None and rng.random() < share:
            reward = float(rng.normal()) if rng.random() < 0.5 else None
            nodes[i] = replace(node, sampled_logprobs=None, observed=True, reward=reward)
    return replace(tree, nodes=nodes)


def tree_of(children: dict[int, Sequence[int]], num_tokens: int | Sequence[int] = 1) -> Tree:
    """A tree with the given children of each node (0 is the root); nodes without an entry are leaves.

    Nodes are numbered from 1 in the order of their parents and have to be listed in it. num_tokens: per node below
    the root, or one number for all.
    """
    parents = {child: parent for parent, below in children.items() for child in below}
    assert sorted(parents) == list(range(1, len(parents) + 1)), "number the nodes 1, 2, ..."
    sizes = [num_tokens] * len(parents) if isinstance(num_tokens, int) else list(num_tokens)
    tree = Tree.from_prompt("made", np.array([7]), seed=0)
    for index, size in zip(sorted(parents), sizes, strict=True):
        stop = None if index in children else StopReason.EOS
        assert add_segment(tree, parents[index], range(index, index + size), stop) == index
    return tree


def complete_tree(height: int, tokens_per_node: int = 1) -> Tree:
    """The complete binary tree with 2 ** height leaves, numbered level by level."""
    return tree_of({i: (2 * i + 1, 2 * i + 2) for i in range(2**height - 1)}, tokens_per_node)


def star(num_leaves: int, lengths: Sequence[int] | int = 3) -> Tree:
    """`num_leaves` trajectories of one segment below the prompt."""
    return tree_of({ROOT: range(1, num_leaves + 1)}, lengths)


def copy_of(tree: Tree) -> Tree:
    """A tree with the same nodes that can be split on its own."""
    return Tree(tree.problem_id, list(tree.nodes))


def relabelled(tree: Tree, rng: np.random.Generator) -> tuple[Tree, list[int]]:
    """The same tree with its nodes added in another random order, and for each of its leaves the old position."""
    children, ready = tree.children(), [ROOT]
    new = Tree(tree.problem_id, [])
    names: dict[int, int] = {}
    while ready:
        old = ready.pop(int(rng.integers(len(ready)))) if names else ready.pop()
        node = tree.nodes[old]
        names[old] = len(new.nodes)
        parent = names[node.parent] if node.parent >= 0 else -1
        new.nodes.append(replace(node, parent=parent))
        ready.extend(children[old])
    olds = {new_index: old for old, new_index in names.items()}
    old_leaves = tree.leaves()
    return new, [old_leaves.index(olds[leaf]) for leaf in new.leaves()]


@st.composite
def trees(draw: st.DrawFn, min_leaves: int = 1, max_leaves: int = 12) -> Tree:
    """Random trees with splits and siblings that begin alike."""
    seed = draw(st.integers(0, 2**32 - 1))
    num_leaves = draw(st.integers(min_leaves, max_leaves))
    vocab = draw(st.integers(1, 6))
    segment_len = draw(st.integers(1, 5))
    max_segments = draw(st.integers(1, 4))
    return random_tree(np.random.default_rng(seed), num_leaves, vocab, segment_len, max_segments)

"""Trees -> PackedTree: each shared token once.

A tree's nodes share what their paths share, and siblings that begin alike are merged too, so that every distinct
token is forwarded once. What is learned is kept apart from what is forwarded: a term is one token of one node, with
its own sampled log-probability and the leaves below it.

Letters: T packed tokens · S terms · L leaves · P tokens of all trajectories, shared ones once for each.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from treepo.learn.trie import START, PrefixTrie, Span
from treepo.tree import ROOT, Tree


@dataclass(frozen=True, eq=False)
class PackedTree:
    """One tree, or some of its trajectories, in depth-first order.

    token_ids, positions int64 [T]; a token's position is its depth in tokens.
    subtree_ends int64 [T]: one past the last token at or below each token.
    targets int64 [S]: the packed token of each term; predecessors int64 [S], in rising order: the token above it, whose
        logits predict it.
    sampled_logprobs float32 [S]: what the engine reported for the term.
    leaf_starts, leaf_ends int64 [S]: the leaves below the term, a range.
    lens, leaf_weights float64 [L]: of each leaf its response tokens, and what each of them weighs in the loss.
    advantages float64 [L]: of each leaf; nan where credit is given per node. own_advantages float64 [P]: in that case,
        of each term the advantage in each trajectory that shares it, by term and leaf; empty otherwise.
    recomputed_logprobs, ref_logprobs float32 [S]: of the policy as it was before the first update of the step, and of the
        reference; empty where there are none.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    subtree_ends: np.ndarray
    targets: np.ndarray
    predecessors: np.ndarray
    sampled_logprobs: np.ndarray
    leaf_starts: np.ndarray
    leaf_ends: np.ndarray
    lens: np.ndarray
    leaf_weights: np.ndarray
    advantages: np.ndarray
    own_advantages: np.ndarray
    recomputed_logprobs: np.ndarray
    ref_logprobs: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_response_tokens(self) -> int:
        """Of all trajectories, shared ones once for each."""
        return int(self.lens.sum())

    def below(self, values: np.ndarray) -> np.ndarray:
        """[S]: the sum over the leaves below each term of one value per leaf."""
        sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        # An infinite advantage becomes a loss that is not finite, which the updater reports.
        with np.errstate(invalid="ignore"):
            return sums[self.leaf_ends] - sums[self.leaf_starts]

    def below_by_advantage(self, weights: np.ndarray, part: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """[S]: the sum over the leaves below each term of weight x part(advantage), weights [L]."""
        if len(self.own_advantages):
            values = weights[ranges(self.leaf_starts, self.leaf_ends)] * part(self.own_advantages)
            counts = self.leaf_ends - self.leaf_starts
            return np.add.reduceat(values, np.cumsum(counts) - counts)
        return self.below(weights * part(self.advantages))


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64: start .. end - 1 of each, one after the other."""
    counts = ends - starts
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def pack(tree: Tree, advantages: np.ndarray, leaves: Sequence[int] | None = None) -> PackedTree:
    """Pack a tree with one advantage per leaf, in the order of `Tree.leaves`, one per node, or one per node and leaf.

    leaves: positions in that order of those to pack; all if not given.
    """
    chosen = _depth_first(tree, range(len(tree.leaves())) if leaves is None else leaves)
    return _packed(tree, advantages, chosen, *_distinct(tree, chosen.nodes))


def pack_within(tree: Tree, advantages: np.ndarray, max_tokens: int) -> list[PackedTree]:
    """Pack a tree in parts of at most `max_tokens` tokens, or of its longest trajectory's if that is more.

    Each trajectory lies whole in one part. Of all ways to cut the depth-first order of the leaves, this is the one that
    repeats the fewest tokens.
    """
    chosen = _depth_first(tree, range(len(tree.leaves())))
    distinct, pieces = _distinct(tree, chosen.nodes)
    if distinct.num_tokens <= max_tokens:
        return [_packed(tree, advantages, chosen, distinct, pieces)]
    layout = distinct.layout()
    last = np.array([layout.indices(pieces[leaf])[-1] for leaf in tree.leaves()])
    order = np.argsort(last, kind="stable")
    bounds = fewest_repeated(layout.positions[last[order]] + 1, np.diff(last[order], prepend=-1), max_tokens)
    return [pack(tree, advantages, order[a:b].tolist()) for a, b in pairwise(bounds)]


def pack_apart(tree: Tree, advantages: np.ndarray) -> list[PackedTree]:
    """Each trajectory on its own: nothing is shared."""
    return [pack(tree, advantages, [i]) for i in range(len(tree.leaves()))]


def fewest_repeated(depths: np.ndarray, new: np.ndarray, max_tokens: int) -> list[int]:
    """Where to cut a row of leaves so that parts have at most `max_tokens` tokens each and the fewest are repeated.

    depths: tokens on the path to each leaf; new: those of them that are not on the path to the leaf before it. A part
    begins with a whole path and goes on with new tokens. Returns where each part begins, and the number of leaves.
    """
    limit = max(max_tokens, int(depths.max()))
    total = np.cumsum(new)
    # A part that begins with leaf i and ends before leaf j has total[j - 1] - total[i] + depths[i] tokens.
    begin, fewest = [0], [0.0]
    for end in range(1, len(depths) + 1):
        sizes = total[end - 1] - total[:end] + depths[:end]
        repeated = np.where(sizes <= limit, fewest + (depths - new)[:end], np.inf)
        begin.append(int(repeated.argmin()))
        fewest.append(float(repeated.min()))
    bounds = [len(depths)]
    while bounds[0] > 0:
        bounds.insert(0, begin[bounds[0]])
    return bounds


def num_distinct(tree: Tree) -> int:
    """Distinct tokens below the prompt: those of the nodes, with siblings that begin alike merged."""
    return _distinct(tree, [i for i in tree.top_down() if i != ROOT])[0].num_tokens - len(tree.prompt_ids)


class _Chosen(NamedTuple):
    """Some leaves and the nodes above them, depth first: positions of the leaves in `Tree.leaves`, nodes without the
    root, and per node its first leaf in that order and the one past its last."""

    order: list[int]
    nodes: list[int]
    first: dict[int, int]
    past: dict[int, int]


def _depth_first(tree: Tree, leaves: Iterable[int]) -> _Chosen:
    every, wanted = tree.leaves(), set(leaves)
    position = {leaf: i for i, leaf in enumerate(every) if i in wanted}
    order: list[int] = []
    first: dict[int, int] = {}
    for i in tree.top_down():
        first[i] = len(order)
        if i in position:
            order.append(position[i])
    past: dict[int, int] = {}
    for i in reversed(first):
        past[i] = max(past.get(i, 0), first[i] + (i in position))
        parent = tree.nodes[i].parent
        past[parent] = max(past.get(parent, 0), past[i])
    nodes = [i for i in first if i != ROOT and past[i] > first[i]]
    return _Chosen(order, nodes, first, past)


def _packed(
    tree: Tree, advantages: np.ndarray, chosen: _Chosen, distinct: PrefixTrie, pieces: dict[int, list[Span]]
) -> PackedTree:
    nodes, leaves, layout = chosen.nodes, tree.leaves(), distinct.layout()
    values, is_per_node = np.asarray(advantages, np.float64), tree.is_per_node(advantages)
    targets = layout.indices([piece for i in nodes for piece in pieces[i]])
    lengths = [len(tree.nodes[i].token_ids) for i in nodes]
    predecessors = layout.parents[targets]
    rising = np.argsort(predecessors, kind="stable")
    starts, ends = (np.repeat([at[i] for i in nodes], lengths)[rising] for at in (chosen.first, chosen.past))
    own = np.zeros(0)
    if is_per_node:
        by_leaf = values if values.ndim == 2 else np.broadcast_to(values[:, None], (len(values), len(leaves)))
        term_nodes = np.repeat(nodes, lengths)[rising]
        own = by_leaf[np.repeat(term_nodes, ends - starts), np.array(chosen.order)[ranges(starts, ends)]]
    return PackedTree(
        token_ids=layout.token_ids,
        positions=layout.positions,
        subtree_ends=layout.subtree_ends,
        targets=targets[rising],
        predecessors=predecessors[rising],
        sampled_logprobs=np.concatenate([tree.logprobs(i) for i in nodes])[rising],
        leaf_starts=starts,
        leaf_ends=ends,
        lens=np.array([tree.response_len(leaves[i]) for i in chosen.order], np.float64),
        leaf_weights=np.ones(len(chosen.order)),
        advantages=np.full(len(chosen.order), np.nan) if is_per_node else values[chosen.order],
        own_advantages=own,
        recomputed_logprobs=np.zeros(0, np.float32),
        ref_logprobs=np.zeros(0, np.float32),
    )


def _distinct(tree: Tree, nodes: Sequence[int]) -> tuple[PrefixTrie, dict[int, list[Span]]]:
    """The distinct tokens of the prompt and these nodes, parents first, and the pieces that each node is."""
    distinct = PrefixTrie()
    _, place = distinct.extend(START, tree.prompt_ids)
    places, pieces = {ROOT: place}, {}
    for i in nodes:
        pieces[i], places[i] = distinct.extend(places[tree.nodes[i].parent], tree.nodes[i].token_ids)
    return distinct, pieces


def cut_within(packed: PackedTree, max_tokens: int) -> list[PackedTree]:
    """Cut what is packed in parts of at most `max_tokens` tokens, or of its longest trajectory's if that is more.

    The parts are those of `pack_within`, and keep what was found out about their terms since: weights and
    log-probabilities.
    """
    if packed.num_tokens <= max_tokens or len(packed.lens) == 1:
        return [packed]
    last = last_tokens(packed)
    order = np.argsort(last, kind="stable")
    bounds = fewest_repeated(packed.positions[last[order]] + 1, np.diff(last[order], prepend=-1), max_tokens)
    return [packed] if len(bounds) == 2 else [_part(packed, last, np.sort(order[a:b])) for a, b in pairwise(bounds)]


def longest_path(packed: PackedTree) -> int:
    """Tokens of the longest trajectory with its prompt."""
    return int(packed.positions.max()) + 1


def last_tokens(packed: PackedTree) -> np.ndarray:
    """int64 [L]: the packed token in which each trajectory ends."""
    last = np.zeros(len(packed.lens), np.int64)
    counts = packed.leaf_ends - packed.leaf_starts
    # Depth first, a token comes after those above it.
    np.maximum.at(last, ranges(packed.leaf_starts, packed.leaf_ends), np.repeat(packed.targets, counts))
    return last


def _part(packed: PackedTree, last: np.ndarray, leaves: np.ndarray) -> PackedTree:
    """The trajectories of some leaves, given in rising order; last: as `last_tokens` says."""
    ends = np.sort(last[leaves])
    index = np.arange(packed.num_tokens)
    has_token = np.searchsorted(ends, packed.subtree_ends) > np.searchsorted(ends, index)
    new_token = np.concatenate([[0], np.cumsum(has_token)])
    is_chosen = np.isin(np.arange(len(packed.lens)), leaves)
    new_leaf = np.concatenate([[0], np.cumsum(is_chosen)])
    starts, past = new_leaf[packed.leaf_starts], new_leaf[packed.leaf_ends]
    has_term = past > starts

    def of_terms(values: np.ndarray) -> np.ndarray:
        return values[has_term] if len(values) else values

    own = packed.own_advantages
    return replace(
        packed,
        token_ids=packed.token_ids[has_token],
        positions=packed.positions[has_token],
        subtree_ends=new_token[packed.subtree_ends[has_token]],
        targets=new_token[packed.targets[has_term]],
        predecessors=new_token[packed.predecessors[has_term]],
        sampled_logprobs=packed.sampled_logprobs[has_term],
        leaf_starts=starts[has_term],
        leaf_ends=past[has_term],
        lens=packed.lens[leaves],
        leaf_weights=packed.leaf_weights[leaves],
        advantages=packed.advantages[leaves],
        own_advantages=own[is_chosen[ranges(packed.leaf_starts, packed.leaf_ends)]] if len(own) else own,
        recomputed_logprobs=of_terms(packed.recomputed_logprobs),
        ref_logprobs=of_terms(packed.ref_logprobs),
    )

"""Trees -> PackedTree: each shared token once.

A tree's nodes share what their paths share, and siblings that begin alike are merged too, so that every distinct
token is forwarded once. What is learned is kept apart from what is forwarded: a target is one token of one node, with
its own sampled log-probability and the leaves below it. Tokens that were observed are forwarded and are no targets.

Letters: T packed tokens · S targets · L leaves · P tokens of all trajectories, shared ones once for each.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from treepo.credit.base import Advantages
from treepo.learn.trie import START, PrefixTrie, Span
from treepo.tree import CUT_OFF, ROOT, Tree


@dataclass(frozen=True, eq=False)
class PackedTree:
    """One tree, or some of its trajectories, in depth-first order.

    token_ids, positions int64 [T]; a token's position is its depth in tokens.
    subtree_ends int64 [T]: one past the last token at or below each token.
    targets int64 [S]: the packed token of each target; predecessors int64 [S], in rising order: the token above it,
        whose logits predict it.
    target_nodes, target_offsets int64 [S]: the node of the tree that the target is of, and its place among the node's
        tokens.
    sampled_logprobs float32 [S]: the log-probability that the engine reported for the target.
    leaf_starts, leaf_ends int64 [S]: the leaves below the target, a range.
    lens, leaf_weights float64 [L]: of each leaf its response tokens, and what each of them weighs in the loss.
    is_truncated bool [L]: whether a limit cut the trajectory off.
    leaf_advantages float64 [L]: of each leaf; nan where nodes have their own. target_advantages float64 [P]: in that
        case, of each target the advantage in each trajectory that shares it, by target and leaf; empty otherwise.
    recomputed_logprobs, ref_logprobs float32 [S]: of the policy before the first update of the step, and of the
        reference; empty where there are none.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    subtree_ends: np.ndarray
    targets: np.ndarray
    predecessors: np.ndarray
    target_nodes: np.ndarray
    target_offsets: np.ndarray
    sampled_logprobs: np.ndarray
    leaf_starts: np.ndarray
    leaf_ends: np.ndarray
    lens: np.ndarray
    leaf_weights: np.ndarray
    is_truncated: np.ndarray
    leaf_advantages: np.ndarray
    target_advantages: np.ndarray
    recomputed_logprobs: np.ndarray
    ref_logprobs: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def max_trajectory_len(self) -> int:
        """Tokens of the longest trajectory with its prompt."""
        return int(self.positions.max()) + 1

    @property
    def old_logprobs(self) -> np.ndarray:
        """float32 [S]: the log-probabilities that ratios refer to."""
        return self.recomputed_logprobs if len(self.recomputed_logprobs) else self.sampled_logprobs

    def sum_over_leaves(self, values: np.ndarray) -> np.ndarray:
        """[S]: the sum over the leaves below each target of one value per leaf."""
        sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        # An infinite advantage becomes a loss that is not finite, which the updater reports.
        with np.errstate(invalid="ignore"):
            return sums[self.leaf_ends] - sums[self.leaf_starts]

    def sum_by_advantage(self, weights: np.ndarray, part: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """[S]: the sum over the leaves below each target of weight x part(advantage), weights [L]."""
        if not len(self.target_advantages):
            return self.sum_over_leaves(weights * part(self.leaf_advantages))
        values = weights[concat_ranges(self.leaf_starts, self.leaf_ends)] * part(self.target_advantages)
        counts = self.leaf_ends - self.leaf_starts
        return np.add.reduceat(values, np.cumsum(counts) - counts)

    def last_tokens(self) -> np.ndarray:
        """int64 [L]: the packed token in which each trajectory ends."""
        last = np.zeros(len(self.lens), np.int64)
        targets = np.repeat(self.targets, self.leaf_ends - self.leaf_starts)
        # Depth first, a token comes after those above it.
        np.maximum.at(last, concat_ranges(self.leaf_starts, self.leaf_ends), targets)
        return last


def concat_ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64: start .. end - 1 of each, one after the other."""
    counts = ends - starts
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def pack(tree: Tree, advantages: Advantages | np.ndarray, leaves: Sequence[int] | None = None) -> PackedTree:
    """Pack a tree with its advantages; a plain array has one per leaf.

    leaves: the positions in `Tree.leaves` of those to pack; all if not given. Raises ValueError unless the advantages
    are of this tree's leaves or nodes.
    """
    selection = _select(tree, range(len(tree.leaves())) if leaves is None else leaves)
    return _packed(tree, Advantages.of(advantages), selection, *_merge_prefixes(tree, selection.nodes))


def pack_in_parts(tree: Tree, advantages: Advantages | np.ndarray, max_tokens: int) -> list[PackedTree]:
    """Pack a tree in parts of at most `max_tokens` tokens, or of its longest trajectory's if that is more.

    Each trajectory lies whole in one part. No other way to split the depth-first order of the leaves repeats fewer
    tokens.
    """
    selection = _select(tree, range(len(tree.leaves())))
    trie, spans = _merge_prefixes(tree, selection.nodes)
    if trie.num_tokens <= max_tokens:
        return [_packed(tree, Advantages.of(advantages), selection, trie, spans)]
    layout = trie.layout()
    last = np.array([layout.indices(spans[leaf])[-1] for leaf in tree.leaves()])
    parts = _split_leaves(last, layout.positions, max_tokens)
    return [pack(tree, advantages, leaves.tolist()) for leaves in parts]


def pack_trajectories(tree: Tree, advantages: Advantages | np.ndarray) -> list[PackedTree]:
    """Pack each trajectory by itself: nothing is shared."""
    return [pack(tree, advantages, [i]) for i in range(len(tree.leaves()))]


def split_packed(packed: PackedTree, max_tokens: int) -> list[PackedTree]:
    """Split a packed tree in parts of at most `max_tokens` tokens, or of its longest trajectory's if that is more.

    The parts are those of `pack_in_parts`, and keep what is known of their targets: weights and log-probabilities.
    """
    if packed.num_tokens <= max_tokens or len(packed.lens) == 1:
        return [packed]
    last = packed.last_tokens()
    parts = _split_leaves(last, packed.positions, max_tokens)
    return [packed] if len(parts) == 1 else [_part(packed, last, np.sort(leaves)) for leaves in parts]


def num_distinct(tree: Tree) -> int:
    """Distinct response tokens: those sampled for the nodes, with siblings that begin alike merged."""
    trie, spans = _merge_prefixes(tree, [i for i in tree.top_down() if i != ROOT])
    if not tree.has_observed:
        return trie.num_tokens - len(tree.prompt_ids)
    sampled = [span for i, own in spans.items() if not tree.nodes[i].observed for span in own]
    return len(np.unique(trie.layout().indices(sampled)))


@dataclass(frozen=True)
class _Selection:
    """Some leaves and the nodes above them, depth first: positions of the leaves in `Tree.leaves`, nodes without the
    root, and per node its leaves, as a range of that order."""

    order: list[int]
    nodes: list[int]
    ranges: dict[int, range]


def _select(tree: Tree, leaves: Iterable[int]) -> _Selection:
    wanted, top_down = set(leaves), list(tree.top_down())
    position = {leaf: i for i, leaf in enumerate(tree.leaves()) if i in wanted}
    order = [position[i] for i in top_down if i in position]
    rank = {i: place for place, i in enumerate(order)}
    ranges: dict[int, range] = {}
    for node, below in tree.groups().items():
        if ranks := [rank[i] for i in below if i in rank]:
            ranges[node] = range(min(ranks), max(ranks) + 1)
    return _Selection(order, [i for i in top_down if i != ROOT and i in ranges], ranges)


def _merge_prefixes(tree: Tree, nodes: Sequence[int]) -> tuple[PrefixTrie, dict[int, list[Span]]]:
    """The distinct tokens of the prompt and these nodes, parents first, and the spans of them that each node is."""
    trie = PrefixTrie()
    _, place = trie.extend(START, tree.prompt_ids)
    places, spans = {ROOT: place}, {}
    for i in nodes:
        spans[i], places[i] = trie.extend(places[tree.nodes[i].parent], tree.nodes[i].token_ids)
    return trie, spans


def _packed(
    tree: Tree, advantages: Advantages, selection: _Selection, trie: PrefixTrie, spans: dict[int, list[Span]]
) -> PackedTree:
    advantages.check_shape(tree)
    nodes, order, layout = [i for i in selection.nodes if not tree.nodes[i].observed], selection.order, trie.layout()
    targets = layout.indices([span for i in nodes for span in spans[i]])
    lengths = [len(tree.nodes[i].token_ids) for i in nodes]
    predecessors = layout.parents[targets]
    rising = np.argsort(predecessors, kind="stable")
    ranges = np.array([(selection.ranges[i].start, selection.ranges[i].stop) for i in nodes])
    starts, ends = np.repeat(ranges, lengths, axis=0)[rising].T.copy()
    target_nodes = np.repeat(nodes, lengths)[rising]
    target_offsets = np.concatenate([np.arange(n) for n in lengths])[rising]
    values, leaf_advantages, target_advantages = advantages.values, np.full(len(order), np.nan), np.zeros(0)
    if advantages.per_node:
        shared = np.repeat(target_nodes, ends - starts)
        sharing = np.array(order)[concat_ranges(starts, ends)]
        if advantages.per_token:
            places = _places_in_response(tree, target_nodes, target_offsets)
            rows = np.cumsum(tree.response_lens()) - tree.response_lens()
            target_advantages = values[rows[sharing] + np.repeat(places, ends - starts)]
        else:
            target_advantages = values[shared] if values.ndim == 1 else values[shared, sharing]
    else:
        leaf_advantages = values[order]
    return PackedTree(
        token_ids=layout.token_ids,
        positions=layout.positions,
        subtree_ends=layout.subtree_ends,
        targets=targets[rising],
        predecessors=predecessors[rising],
        target_nodes=target_nodes,
        target_offsets=target_offsets,
        sampled_logprobs=np.concatenate([tree.logprobs(i) for i in nodes])[rising],
        leaf_starts=starts,
        leaf_ends=ends,
        lens=tree.response_lens()[order].astype(np.float64),
        leaf_weights=np.ones(len(order)),
        is_truncated=np.array([tree.nodes[leaf].stop in CUT_OFF for leaf in tree.leaves()])[order],
        leaf_advantages=leaf_advantages,
        target_advantages=target_advantages,
        recomputed_logprobs=np.zeros(0, np.float32),
        ref_logprobs=np.zeros(0, np.float32),
    )


def _places_in_response(tree: Tree, nodes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64: the response tokens before each of these tokens of nodes."""
    before = [tree.response_len(i) - tree.num_sampled(i) for i in range(len(tree.nodes))]
    return np.array(before)[nodes] + offsets


def _split_leaves(last: np.ndarray, positions: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """The leaves of each part, depth first. last [L]: the packed token in which each leaf's trajectory ends."""
    order = np.argsort(last, kind="stable")
    bounds = split_points(positions[last[order]] + 1, np.diff(last[order], prepend=-1), max_tokens)
    return [order[start:end] for start, end in pairwise(bounds)]


def split_points(depths: np.ndarray, new: np.ndarray, max_tokens: int) -> list[int]:
    """Where to split a row of leaves so that parts have at most `max_tokens` tokens each and the fewest are repeated.

    depths: tokens on the path to each leaf; new: those of them that are not on the path to the leaf before it. A part
    begins with a whole path and continues with new tokens. Returns where each part begins, and the number of leaves.
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


OF_TOKENS = ("token_ids", "positions")
OF_TARGETS = ("target_nodes", "target_offsets", "sampled_logprobs")
OF_LEAVES = ("lens", "leaf_weights", "is_truncated", "leaf_advantages")
OPTIONAL = ("recomputed_logprobs", "ref_logprobs")
"""Arrays of a PackedTree by what they have an entry for; the optional ones for each target, if any."""


def _part(packed: PackedTree, last: np.ndarray, leaves: np.ndarray) -> PackedTree:
    """The trajectories of some leaves, given in rising order. last: see `PackedTree.last_tokens`."""
    ends = np.sort(last[leaves])
    index = np.arange(packed.num_tokens)
    has_token = np.searchsorted(ends, packed.subtree_ends) > np.searchsorted(ends, index)
    new_token = np.concatenate([[0], np.cumsum(has_token)])
    is_chosen = np.isin(np.arange(len(packed.lens)), leaves)
    new_leaf = np.concatenate([[0], np.cumsum(is_chosen)])
    starts, past = new_leaf[packed.leaf_starts], new_leaf[packed.leaf_ends]
    has_target = past > starts
    kept_advantages = packed.target_advantages
    if len(kept_advantages):
        kept_advantages = kept_advantages[is_chosen[concat_ranges(packed.leaf_starts, packed.leaf_ends)]]

    kept_places = ((OF_TOKENS, has_token), (OF_TARGETS, has_target), (OF_LEAVES, leaves))
    arrays = {name: getattr(packed, name)[places] for names, places in kept_places for name in names}
    optional = {name: values[has_target] for name in OPTIONAL if len(values := getattr(packed, name))}
    return replace(
        packed,
        **arrays | optional,
        subtree_ends=new_token[packed.subtree_ends[has_token]],
        targets=new_token[packed.targets[has_target]],
        predecessors=new_token[packed.predecessors[has_target]],
        leaf_starts=starts[has_target],
        leaf_ends=past[has_target],
        target_advantages=kept_advantages,
    )

"""Distinct tokens as nodes of a trie, against sorted prefixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.reference import flatten
from treepo.learn.trie import START, PrefixTrie

pytestmark = pytest.mark.quick

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=8).map(lambda ids: [0, *ids]), min_size=1, max_size=8)


def merged(sequences: list[list[int]]) -> tuple[PrefixTrie, list]:
    """All sequences put in, each in two parts, and where their tokens are."""
    trie, spans = PrefixTrie(), []
    for ids in sequences:
        middle = (len(ids) + 1) // 2
        first, cursor = trie.extend(START, np.array(ids[:middle]))
        spans.append(first + trie.extend(cursor, np.array(ids[middle:]))[0])
    return trie, spans


@given(SEQUENCES)
@settings(deadline=None)
def test_tokens_lie_depth_first(sequences: list[list[int]]) -> None:
    """Each trie beginning is there once, below its predecessor, with what continues it right behind it."""
    trie, spans = merged(sequences)
    layout = trie.layout()
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(layout.token_ids.tolist(), layout.parents.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    assert sorted(paths) == flatten(sequences)
    assert trie.num_tokens == len(paths)
    assert layout.positions.tolist() == [len(path) - 1 for path in paths]
    for i, path in enumerate(paths):
        below = [j for j, other in enumerate(paths) if other[: len(path)] == path]
        assert below == list(range(i, int(layout.subtree_ends[i])))
    for ids, own in zip(sequences, spans, strict=True):
        assert [paths[i] for i in layout.indices(own)] == [tuple(ids[: i + 1]) for i in range(len(ids))]


@given(SEQUENCES)
@settings(deadline=None)
def test_nodes_are_as_few_as_sequences(sequences: list[list[int]]) -> None:
    """A sequence adds at most one node per piece that it came in, and one that is there already adds none."""
    trie, _ = merged(sequences)
    num_nodes = len(trie.nodes)
    assert num_nodes <= 2 * len(sequences)
    for ids in sequences:
        trie.extend(START, np.array(ids))
    assert len(trie.nodes) == num_nodes

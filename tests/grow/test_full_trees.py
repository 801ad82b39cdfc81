"""A tree that cannot fork any more is decoded in one go; it must be the tree that segment by segment would give."""

import pytest
from hypothesis import given, settings

from tests.grow.scripts import EOS, Noise, World, problems, same_tree, worlds
from treepo.grow.branching import InitialFork
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.tree import StopReason

pytestmark = pytest.mark.quick


@settings(max_examples=500, deadline=None)
@given(worlds())
def test_the_same_trees_with_and_without_cutting(world):
    """Node by node, whatever ends the paths, also where a rule on a segment's text ends one before its last token."""
    cut, whole = world.engine(), world.engine()
    wanted = world.grow(cut)
    tree = world.grow(whole, segment_full_trees=False)
    assert same_tree(tree, wanted)
    assert len(whole.requests) <= len(cut.requests)
    decoded = sum(len(result.token_ids) for result in whole.results.values())
    assert decoded == tree.num_decoded() == wanted.num_decoded() + tree.num_dropped - wanted.num_dropped


def test_a_full_tree_takes_one_request_per_path():
    """With k0 = b = 2 a tree of width 4 is full after one level: 2 + 4 requests, where cutting takes 2 + 4 · 5."""
    world = World(TreeShape(width=4, depth=6, segment_len=3), InitialFork(2, 2))
    cut, whole = world.engine(), world.engine()
    tree = world.grow(whole, segment_full_trees=False)
    world.grow(cut)
    assert (len(whole.requests), len(cut.requests)) == (6, 22)
    assert [r.max_new_tokens for r in whole.requests] == [3, 3, 15, 15, 15, 15]
    assert [len(tree.path(leaf)) for leaf in tree.leaves()] == [7] * 4


def test_what_is_decoded_beyond_a_stop_is_dropped_and_counted():
    """A box that ends the answer by itself is noticed at the next boundary; the tokens after it belong to no node."""
    script = [*[0] * 3, 4, 0, 7, *[0] * 14]
    world = World(TreeShape(width=1, depth=5, segment_len=4), InitialFork(1, 1))
    stopping = StopRules(answer="answer", repetition="never")
    engine = world.engine()
    engine.script = lambda ids, seed: (script[len(ids) - 1], -1.0)
    tree = world.grow(engine, stopping=stopping, segment_full_trees=False)
    assert [n.token_ids.tolist() for n in tree.nodes[1:]] == [script[:4], script[4:8]]
    assert tree.nodes[-1].stop == StopReason.ANSWER
    assert (tree.num_dropped, tree.num_decoded()) == (12, 20)


def test_an_engine_is_never_asked_beyond_the_longest_response():
    world = World(TreeShape(3, 4, 5, max_response_len=13), InitialFork(1, 1), noise=Noise(eos=0.05))
    engine = world.engine(max_num_seqs=2)
    sampler = TreeSampler(engine, world.rules(segment_full_trees=False))
    prompts = {p.id: len(p.prompt_ids) for p in problems(20)}
    for _, tree in sampler.grow(problems(20), seed=5):
        lengths = [tree.response_len(leaf) for leaf in tree.leaves()]
        assert all(n <= 13 for n in lengths)
        assert all(n == 13 or tree.ids(leaf)[-1] in EOS for n, leaf in zip(lengths, tree.leaves(), strict=True))
    assert all(len(r.prefix_ids) + r.max_new_tokens <= max(prompts.values()) + 13 for r in engine.requests)

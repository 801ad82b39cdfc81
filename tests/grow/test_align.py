"""Trees whose segments end where the blocks of an engine's cache do: the boundaries, and the trees grown by them."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.grow.scripts import World, has_its_width, problem, random_world, same_tree, shapes, worlds
from treepo.grow.branching import InitialFork, Level, RandomBranching
from treepo.grow.fallback import Backtrack, FinishedPath
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.tree import ROOT, StopReason, Tree

ALIGNS = (2, 3, 4, 7, 8, 16, 32, 1000)
FALLBACKS = [
    Backtrack(order, cut=cut, block_len=2)
    for order in ("answered", "all", "by_reason", "longest", "long_answered")
    for cut in ("boundary", "unlikely_token", "unlikely_block", "likely_block", "prompt")
] + [Backtrack("all", window=3), Backtrack("longest", max_windows=1), Backtrack("answered", window=2, max_windows=2)]
BOUNDARIES = [Backtrack(order) for order in ("answered", "all", "by_reason", "longest", "long_answered")]
aligns = st.sampled_from(ALIGNS)
prompt_lens = st.integers(1, 100)


def aligned(world: World, align: int, segment_len: int | None = None) -> World:
    """The world with blocks of `align` tokens and perhaps other segments; its response bounded by what these allow."""
    shape = world.shape
    segment_len = segment_len or shape.segment_len
    limit = shape.max_response_len and min(shape.max_response_len, shape.depth * segment_len)
    shape = replace(shape, segment_len=segment_len, align=align, max_response_len=limit, min_response_len=1)
    return replace(world, shape=shape)


def is_aligned(shape: TreeShape, prompt_len: int, index: int) -> bool:
    """Whether a block has just begun at a boundary."""
    return (prompt_len + shape.boundary(index)) % shape.align == 1 % shape.align


def boundaries(shape: TreeShape) -> list[int]:
    """Response tokens at which segments begin, by decoding segment after segment."""
    found = [0]
    while found[-1] < shape.max_response_tokens:
        found.append(found[-1] + shape.segment_at(found[-1]))
    return found[:-1]


@given(shapes(), aligns, st.integers(1, 6), prompt_lens)
def test_every_boundary_begins_a_block_if_segments_are_whole_blocks(shape, align, num_blocks, prompt_len):
    """Unless the first segment would have to be the only one: then it stays as it is."""
    shape = TreeShape(shape.width, shape.depth, align * num_blocks, shape.num_children, align=align)
    tree = shape.for_prompt(prompt_len, shape.num_children)
    wanted = next(n for n in range(shape.segment_len, 2 * shape.segment_len) if (prompt_len + n) % align == 1)
    assert tree.first_len == (wanted if wanted < shape.max_response_tokens else shape.segment_len)
    assert wanted >= shape.max_response_tokens or all(is_aligned(tree, prompt_len, i) for i in range(1, 20))


@given(shapes(), aligns, prompt_lens, st.integers(1, 8))
def test_the_last_boundary_at_which_a_tree_forks_begins_a_block(shape, align, prompt_len, num_first):
    """Paths multiply by b at each boundary until they are the width, however many the prompt has; any length of a
    segment. With more children of the prompt than of other nodes, a boundary was aligned at which nothing forked."""
    shape = replace(shape, align=align)
    num_paths, last = num_first, 0
    while shape.num_children > 1 and num_paths < shape.width:
        num_paths, last = num_paths * shape.num_children, last + 1
    tree = shape.for_prompt(prompt_len, num_first)
    for index in range(max(last, 1), 0, -1):
        boundary = next(n for n in itertools.count(shape.boundary(index)) if (prompt_len + n) % align == 1)
        if boundary < shape.max_response_tokens:
            assert tree.boundary(index) == boundary
            return
    assert tree is shape


@given(shapes(), aligns, prompt_lens)
def test_an_aligned_shape_is_as_large(shape, align, prompt_len):
    """The first segment is longer by less than a block, and every other setting is the same."""
    shape = replace(shape, align=align)
    tree = shape.for_prompt(prompt_len, shape.num_children)
    assert shape.segment_len <= tree.first_len < shape.segment_len + align
    assert tree.max_response_tokens == shape.max_response_tokens
    assert {name: getattr(tree, name) for name in vars(shape)} == vars(shape)
    assert replace(tree, width=shape.min_width).first_len == tree.first_len
    if shape.token_budget is not None:
        assert tree.within_budget([1], 2.0).width == shape.within_budget([1], 2.0).width
        assert tree.within_budget([1], 2.0).first_len == tree.first_len


@given(shapes(), aligns, prompt_lens)
def test_boundaries_and_numbers_of_segments_are_inverse(shape, align, prompt_len):
    """No response has more segments than the depth, and each begins where one boundary is and ends by the next."""
    tree = replace(shape, align=align).for_prompt(prompt_len, shape.num_children)
    starts = boundaries(tree)
    assert starts == [tree.boundary(i) for i in range(len(starts))]
    for length in range(tree.max_response_tokens + 1):
        assert tree.num_segments(length) == sum(start < length for start in starts) <= shape.depth
    for index in range(len(starts)):
        assert tree.num_segments(tree.boundary(index)) == index
        assert tree.num_segments(tree.boundary(index) + 1) == index + 1


@given(shapes(), prompt_lens, aligns)
def test_a_tree_of_one_segment_and_blocks_of_one_token_change_nothing(shape, prompt_len, align):
    """The shape is the very same object."""
    single = TreeShape(shape.width, 1, shape.segment_len, shape.num_children, align=align)
    for unchanged in (replace(shape, align=1), single):
        assert unchanged.for_prompt(prompt_len, 2) is unchanged


@settings(max_examples=200, deadline=None)
@given(worlds(), st.sampled_from(FALLBACKS), st.booleans(), st.integers(1, 3))
def test_boundaries_that_begin_blocks_anyway_leave_trees_as_they_are(world, fallback, segment_full_trees, num_blocks):
    """With a prompt of one token and segments of whole blocks nothing has to move: node by node the same tree."""
    length = world.shape.segment_len
    blocks, none = (replace(aligned(world, align, length * num_blocks), name="p") for align in (length, 1))
    changed = {"fallback": fallback, "segment_full_trees": segment_full_trees}
    assert same_tree(blocks.grow(**changed), none.grow(**changed))


@settings(max_examples=400, deadline=None)
@given(worlds(), aligns, st.sampled_from(FALLBACKS), st.booleans())
def test_every_tree_has_its_width_and_no_path_is_too_long(world, align, fallback, segment_full_trees):
    """Whatever the blocks, the bounds and the fallback; every token that was decoded is in the tree or was dropped."""
    world = replace(world, shape=replace(world.shape, align=align))
    engine = world.engine()
    tree = world.grow(engine, fallback=fallback, segment_full_trees=segment_full_trees, branching=RandomBranching(1, 4))
    assert has_its_width(tree, world.shape)
    assert all(1 <= tree.response_len(leaf) <= world.shape.max_response_tokens for leaf in tree.leaves())
    assert all(len(node.token_ids) > 0 for node in tree.nodes)
    assert sum(len(r.token_ids) for r in engine.results.values()) == tree.num_decoded()


def forks(tree: Tree) -> list[int]:
    """Tokens before each fork below the root."""
    return [len(tree.ids(i)) for i, below in enumerate(tree.children()) if i != ROOT and len(below) > 1]


@settings(max_examples=400, deadline=None)
@given(worlds(), st.sampled_from((2, 3, 4, 8)), st.integers(1, 3), st.sampled_from(BOUNDARIES))
def test_paths_fork_one_token_past_a_boundary_between_blocks(world, align, num_blocks, fallback):
    """Also where a fallback resumes at a boundary, wherever a longer first segment leaves room for a second."""
    world = aligned(world, align, align * num_blocks)
    prompt_len = len(problem(world.name).prompt_ids)
    assume(is_aligned(world.shape.for_prompt(prompt_len, 2), prompt_len, 1))
    tree = world.grow(fallback=fallback)
    assert all(length % align == 1 for length in forks(tree))


def test_eventful_trees_fork_past_boundaries_between_blocks_alone() -> None:
    """Many forks, of which most would lie elsewhere without alignment."""
    found = {1: Counter(), 4: Counter()}
    for seed in range(200):
        for align, places in found.items():
            world = aligned(random_world(seed, 16), align, 4)
            world = replace(world, shape=replace(world.shape, max_response_len=None, depth=8))
            places.update(length % 4 for length in forks(world.grow(fallback=Backtrack("all"))))
    assert set(found[4]) == {1}
    assert found[4][1] > 500
    assert len(found[1]) == 4
    assert found[1][1] < sum(found[1].values()) / 2


@settings(max_examples=500, deadline=None)
@given(worlds(), aligns, st.sampled_from(FALLBACKS))
def test_the_same_trees_with_and_without_cutting(world, align, fallback):
    """A full tree decoded in one request per path equals, token for token, the one decoded segment by segment."""
    world = replace(world, shape=replace(world.shape, align=align))
    assert same_tree(
        world.grow(fallback=fallback, segment_full_trees=False), world.grow(fallback=fallback, segment_full_trees=True)
    )


def unbranched(level: Level, rng: np.random.Generator) -> list[int]:
    """One child each."""
    return [1] * level.num_active


@pytest.mark.parametrize(("align", "segment_len", "depth"), [(2, 4, 3), (4, 4, 3), (8, 2, 8), (16, 4, 6)])
def test_a_path_cut_inside_a_long_first_segment_grows_to_the_longest_response(align, segment_len, depth):
    """A cut so early that a segment from there does not pass the first boundary leaves as many segments as before it.

    One request for the rest of the path ended before the deepest level then, and a node without tokens was added to it
    over and over.
    """
    shape = TreeShape(2, depth, segment_len, 2, align=align)
    for prompt_len in range(1, align + 1):
        world = World(shape, InitialFork(1, 1), StopRules("never", "never"), name="p" * prompt_len)
        first = shape.for_prompt(prompt_len, 1).first_len
        for keep in range(first):

            def script(ids: np.ndarray, seed: int, cut: int = prompt_len + keep) -> tuple[int, float]:
                return 0, -9.0 if len(ids) == cut else -1.0

            trees = []
            for segment_full_trees in (True, False):
                engine = world.engine()
                engine.script = script
                fallback = Backtrack("all", cut="unlikely_token")
                changed = {"fallback": fallback, "branching": unbranched, "segment_full_trees": segment_full_trees}
                trees.append(world.grow(engine, **changed))
            assert same_tree(*trees)
            assert trees[1].num_dropped == 0, "asked for more than the depth allows"
            if keep + segment_len <= first:
                assert {trees[0].response_len(leaf) for leaf in trees[0].leaves()} == {shape.max_response_tokens}


@settings(max_examples=150, deadline=None)
@given(worlds(), aligns)
def test_a_path_that_does_not_fork_is_the_same_whatever_the_blocks(world, align):
    """Boundaries leave no trace in the tokens of sequential samples, nor in why they end."""
    width = world.shape.width
    fork, stopping = InitialFork(width, width), StopRules(repetition="never")
    world = replace(aligned(world, align), fork=fork, stopping=stopping)
    ends = [
        [(t.token_ids.tolist(), t.stop) for t in replace(world, shape=shape).grow().trajectories()]
        for shape in (replace(world.shape, token_budget=None, align=a) for a in (1, align))
    ]
    assert sorted(ends[0]) == sorted(ends[1])


def test_requests_of_an_aligned_tree() -> None:
    """A prompt of 5 tokens, 4 segments of 8, blocks of 8: boundaries after 12, 20 and 28 tokens, 4 more at the end."""
    world = World(TreeShape(8, 4, 8, 2, align=8), InitialFork(2, 2), name="p" * 5)
    engine = world.engine()
    tree = world.grow(engine)
    requests = Counter((len(r.prefix_ids), r.max_new_tokens) for r in engine.requests)
    assert requests == {(5, 12): 2, (17, 8): 4, (25, 8): 8, (33, 4): 8}
    assert {(t.stop, len(t.token_ids)) for t in tree.trajectories()} == {(StopReason.DEPTH, 32)}


def test_segments_of_a_block_and_a_half_align_the_last_fork() -> None:
    """2 paths become 16 at the third boundary: with a prompt of 2 tokens it moves from 18 to 19, one past 5 blocks."""
    shape = TreeShape(16, 8, 6, 2, align=4).for_prompt(2, 2)
    assert [shape.boundary(i) for i in range(5)] == [0, 7, 13, 19, 25]


@pytest.mark.parametrize(
    ("longest", "prompt_len", "expected", "stop"),
    [
        (None, 5, [28, 4], StopReason.DEPTH),
        (25, 9, [24, 1], StopReason.LENGTH),
        (25, 8, [4] * 6 + [1], StopReason.LENGTH),
    ],
)
def test_a_first_segment_of_several_saves_levels_but_no_tokens(longest, prompt_len, expected, stop) -> None:
    """With blocks of 32 and segments of 4 the longest response is reached before the depth, for the usual reason."""
    shape = TreeShape(2, 8, 4, 2, max_response_len=longest, align=32)
    tree = World(shape, InitialFork(2, 2), name="p" * prompt_len).grow()
    assert [[len(tree.nodes[i].token_ids) for i in t.nodes] for t in tree.trajectories()] == [expected] * 2
    assert {t.stop for t in tree.trajectories()} == {stop}


def test_a_first_segment_that_would_be_the_only_one_stays() -> None:
    """2 segments of 4 after a prompt of 6: the next block begins at response token 11 of 8."""
    shape = TreeShape(4, 2, 4, 2, align=16)
    assert shape.for_prompt(6, 2) is shape
    assert shape.for_prompt(10, 2).boundary(1) == 7
    assert shape.for_prompt(9, 2) is shape


def test_fallbacks_draw_every_boundary_alike() -> None:
    """25 tokens in segments of 11, 8 and 8: 0, 11 and 19 are kept equally often."""
    shape = TreeShape(8, 8, 8, 2, align=8).for_prompt(6, 2)
    trajectory = FinishedPath(1, StopReason.ANSWER, np.zeros(25, np.float32))
    kept = Counter(Backtrack().num_kept(trajectory, shape, np.random.default_rng(i)) for i in range(3000))
    assert sorted(kept) == [0, 11, 19]
    assert all(abs(n / 3000 - 1 / 3) < 0.04 for n in kept.values())
    assert {Backtrack(max_windows=1).num_kept(trajectory, shape, np.random.default_rng(i)) for i in range(20)} == {19}


def test_long_answers_are_counted_in_segments_of_the_tree() -> None:
    """With a first segment of 11 tokens a second one begins at the twelfth."""
    shape = TreeShape(8, 8, 8, 2, align=8).for_prompt(6, 2)
    finished = [FinishedPath(length, StopReason.ANSWER, np.zeros(length, np.float32)) for length in (9, 11, 12)]
    usable = Backtrack("long_answered").ordered(finished, shape, np.random.default_rng(0))
    assert [f.response_len for f in usable] == [12]


def test_an_answer_is_looked_for_at_the_boundaries_of_the_tree() -> None:
    """A box that closes within the longer first segment ends the path after it, not after the usual length."""
    world = World(TreeShape(1, 4, 4, 2, align=4), InitialFork(1, 1), StopRules("answer", "never"), name="p" * 3)
    engine = world.engine()
    engine.script = lambda ids, seed: ([4, 0, 7, *[0] * 13][len(ids) - 3], -1.0)
    [trajectory] = world.grow(engine, segment_full_trees=False).trajectories()
    assert (len(trajectory.token_ids), trajectory.stop) == (6, StopReason.ANSWER)


def test_blocks_of_no_tokens_are_refused() -> None:
    """With the field and its value named."""
    with pytest.raises(ValueError, match="align: must be within .* got 0"):
        TreeShape(align=0)

"""The tree and its views: what they are made of, and what splitting leaves alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.trees import add_segment, complete_tree, copy_of, logprobs_of, random_tree, tree_of, trees
from treepo.tree import ROOT, Node, StopReason, Tree

pytestmark = pytest.mark.quick

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=5)


class GrowsLikePlainLists(RuleBasedStateMachine):
    """Any sequence of adding, cutting and splitting gives the trajectories that plain token lists give."""

    @initialize(prompt=tokens)
    def plant(self, prompt: list[int]) -> None:
        self.prompt = prompt
        self.tree = Tree.from_prompt("p", np.array(prompt), seed=3)
        self.ends = {ROOT: prompt}  # what each node index must end, for ever
        self.finished: list[tuple[int, list[int], StopReason]] = []

    def open_nodes(self) -> list[int]:
        return [i for i, n in enumerate(self.tree.nodes) if n.stop is None]

    @rule(data=st.data(), new=tokens, stop=st.none() | st.sampled_from(StopReason))
    def add(self, data: st.DataObject, new: list[int], stop: StopReason | None) -> None:
        parent = data.draw(st.sampled_from(self.open_nodes()))
        index = add_segment(self.tree, parent, new, stop)
        assert index == len(self.ends), "indices are given in order"
        self.ends[index] = self.ends[parent] + new
        if stop is not None:
            self.finished.append((index, self.ends[index], stop))

    @precondition(lambda self: len(self.ends) > 1)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.ends)))
        keep = data.draw(st.integers(0, len(self.ends[index]) - len(self.prompt)))
        boundaries = [len(self.ends[i]) - len(self.prompt) for i in self.tree.path(index)]
        num_nodes = len(self.tree.nodes)
        node = self.tree.cut(index, keep)
        self.ends.setdefault(node, self.ends[index][: len(self.prompt) + keep])
        assert self.tree.response_len(node) == keep
        assert self.ends[node] == self.ends[index][: len(self.prompt) + keep]
        assert node in self.tree.path(index)
        assert len(self.tree.nodes) == num_nodes + (keep not in boundaries), "splits only inside a segment"

    @precondition(lambda self: any(len(n.token_ids) > 1 for n in self.tree.nodes[1:]))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        long = [i for i, n in enumerate(self.tree.nodes) if i != ROOT and len(n.token_ids) > 1]
        index = data.draw(st.sampled_from(long))
        offset = data.draw(st.integers(1, len(self.tree.nodes[index].token_ids) - 1))
        old = self.tree.nodes[index]
        upper = self.tree.split(index, offset)
        self.ends[upper] = self.ends[index][: len(self.ends[index]) - len(old.token_ids) + offset]
        assert self.tree.nodes[index].parent == upper
        assert self.tree.nodes[upper].parent == old.parent
        assert self.tree.children()[upper] == [index]
        assert self.tree.nodes[upper].stop is None
        assert self.tree.nodes[index].stop == old.stop
        assert self.tree.nodes[upper].seed == self.tree.nodes[index].seed == old.seed

    @invariant()
    def every_index_still_ends_the_same_tokens(self) -> None:
        assert len(self.ends) == len(self.tree.nodes)
        for index, ids in self.ends.items():
            assert self.tree.ids(index).tolist() == ids

    @invariant()
    def trajectories_are_the_plain_lists(self) -> None:
        assert self.tree.leaves() == [leaf for leaf, _, _ in self.finished]
        for (leaf, ids, stop), t in zip(self.finished, self.tree.trajectories(), strict=True):
            response = ids[len(self.prompt) :]
            assert (t.leaf, t.stop) == (leaf, stop)
            assert t.token_ids.tolist() == response
            assert t.sampled_logprobs.tolist() == logprobs_of(self.prompt, response).tolist()
            assert self.tree.path(leaf) == [ROOT, *t.nodes]


TestGrowsLikePlainLists = GrowsLikePlainLists.TestCase
TestGrowsLikePlainLists.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def leaves_below(tree: Tree, node: int) -> set[int]:
    """The leaves at or below a node, by following children."""
    children = tree.children()
    found, ahead = set(), [node]
    while ahead:
        index = ahead.pop()
        ahead += children[index]
        if tree.nodes[index].stop is not None:
            found.add(index)
    return found


@settings(max_examples=200, deadline=None)
@given(trees())
def test_groups_are_the_leaves_below_each_node(tree: Tree) -> None:
    """By position in `leaves`, in rising order; nodes with nothing finished below them have no group."""
    leaves, groups = tree.leaves(), tree.groups()
    for node in range(len(tree.nodes)):
        below = leaves_below(tree, node)
        assert groups.get(node, []) == [position for position, leaf in enumerate(leaves) if leaf in below]
    assert groups[ROOT] == list(range(len(leaves)))


@settings(max_examples=200, deadline=None)
@given(trees())
def test_children_share_out_their_parents_group(tree: Tree) -> None:
    """Every leaf below a node is below exactly one of its children."""
    groups = tree.groups()
    for node, below in enumerate(tree.children()):
        assert all(tree.nodes[child].parent == node for child in below)
        if below:
            assert sorted(position for child in below for position in groups.get(child, [])) == groups.get(node, [])


def test_a_group_without_leaves_is_absent() -> None:
    """An open path does not count as a trajectory."""
    tree = tree_of({0: [1, 2]})
    open_node = add_segment(tree, ROOT, [1, 2])
    assert tree.groups() == {0: [0, 1], 1: [0], 2: [1]}
    assert open_node not in tree.groups()


@settings(max_examples=200, deadline=None)
@given(trees())
def test_top_down_visits_parents_first_and_subtrees_together(tree: Tree) -> None:
    """Depth first: the descendants of a node follow it without a gap."""
    order = list(tree.top_down())
    assert sorted(order) == list(range(len(tree.nodes)))
    place = {index: i for i, index in enumerate(order)}
    for index in order:
        descendants = [i for i in order if index in tree.path(i)]
        assert sorted(place[i] for i in descendants) == list(range(place[index], place[index] + len(descendants)))
        assert min(place[i] for i in descendants) == place[index]


@settings(max_examples=200, deadline=None)
@given(trees(), st.randoms(use_true_random=False))
def test_splitting_changes_no_view_of_the_leaves(tree: Tree, random: object) -> None:
    """Neither trajectories, nor leaf indices, nor the tokens decoded, nor the groups that were there."""
    before = copy_of(tree)
    for _ in range(5):
        leaf = random.choice(tree.leaves())
        tree.cut(leaf, random.randrange(tree.response_len(leaf) + 1))
    assert tree.leaves() == before.leaves()
    assert tree.num_decoded() == before.num_decoded()
    groups = tree.groups()
    assert all(groups[node] == positions for node, positions in before.groups().items())
    for old, new in zip(before.trajectories(), tree.trajectories(), strict=True):
        assert old.token_ids.tolist() == new.token_ids.tolist()
        assert old.sampled_logprobs.tolist() == new.sampled_logprobs.tolist()
        assert old.stop == new.stop


def test_a_split_leaves_the_mark_of_a_fallback_with_the_upper_part() -> None:
    """The lower part is what came of it, and an original to whatever is drawn beside it later."""
    tree = tree_of({0: [1, 2]})
    drawn = add_segment(tree, ROOT, [1, 2, 3], StopReason.EOS, from_fallback=True)
    upper = tree.split(drawn, 2)
    assert [tree.nodes[i].from_fallback for i in (1, upper, drawn)] == [False, True, False]


def test_tokens_are_held_once() -> None:
    """Eight trajectories of 3 segments x 2 tokens share 14 nodes: 28 tokens decoded, not 48; prompts do not count."""
    tree = complete_tree(3, tokens_per_node=2)
    assert tree.num_decoded() == 28
    assert sum(len(t.token_ids) for t in tree.trajectories()) == 48


def test_ids_are_the_prompt_and_the_segments_on_the_path() -> None:
    """Written out for a tree with a cut inside a segment."""
    tree = Tree.from_prompt("p", np.array([9, 8]), seed=0)
    a = add_segment(tree, ROOT, [1, 2, 3])
    b = add_segment(tree, a, [4, 5], StopReason.EOS)
    upper = tree.cut(b, 2)
    c = add_segment(tree, upper, [6], StopReason.ANSWER)
    assert [n.token_ids.tolist() for n in tree.nodes] == [[9, 8], [3], [4, 5], [1, 2], [6]]
    assert [n.parent for n in tree.nodes] == [-1, upper, a, ROOT, upper]
    assert tree.ids(b).tolist() == [9, 8, 1, 2, 3, 4, 5]
    assert tree.ids(c).tolist() == [9, 8, 1, 2, 6]
    assert tree.leaves() == [b, c]
    assert tree.trajectory(c).nodes == (upper, c)
    assert [t.stop for t in tree.trajectories()] == [StopReason.EOS, StopReason.ANSWER]
    assert tree.ids(c).dtype == tree.prompt_ids.dtype == np.int32


def test_the_prompt_is_not_scored() -> None:
    """Not scored is None, which is not a log-probability of 0."""
    assert complete_tree(1).nodes[ROOT].sampled_logprobs is None


def leafy() -> Tree:
    """A prompt of 2 tokens, an inner node of 3, and below it a leaf of 2."""
    tree = Tree.from_prompt("p", np.array([9, 8]), seed=0)
    add_segment(tree, add_segment(tree, ROOT, [1, 2, 3]), [4, 5], StopReason.EOS)
    return tree


def node(parent: int, logprobs: np.ndarray | None) -> Node:
    """A node of two tokens."""
    return Node(parent, np.array([1, 2], np.int32), logprobs, 0)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda t: add_segment(t, 2, [1]), id="a leaf has no children"),
        pytest.param(lambda t: t.add(node(3, np.zeros(2, np.float32))), id="no such parent"),
        pytest.param(lambda t: t.add(node(1, None)), id="not scored"),
        pytest.param(lambda t: t.add(node(1, np.zeros(1, np.float32))), id="scored in part"),
        pytest.param(lambda t: t.split(ROOT, 1), id="split of the prompt"),
        pytest.param(lambda t: t.split(1, 0), id="empty upper part"),
        pytest.param(lambda t: t.split(1, 3), id="empty lower part"),
        pytest.param(lambda t: t.split(2, 4), id="beyond the node"),
        pytest.param(lambda t: t.cut(2, 6), id="cut beyond the end"),
        pytest.param(lambda t: t.cut(1, 4), id="cut beyond an inner node"),
        pytest.param(lambda t: t.cut(2, -1), id="cut in the prompt"),
        pytest.param(lambda t: t.trajectory(1), id="an inner node is no trajectory"),
        pytest.param(lambda t: t.trajectory(ROOT), id="the prompt is no trajectory"),
    ],
)
def test_wrong_uses_assert(use: object) -> None:
    """And leave the tree as it was."""
    tree = leafy()
    before = list(tree.nodes)
    with pytest.raises(AssertionError):
        use(tree)
    assert tree.nodes == before


def test_there_is_one_root() -> None:
    """A node without a parent is refused, also where the last node could have children."""
    tree = Tree.from_prompt("p", np.array([9]), seed=0)
    with pytest.raises(AssertionError, match="no parent"):
        tree.add(node(-1, np.zeros(2, np.float32)))


def test_random_trees_have_what_tests_need() -> None:
    """Splits inside segments, siblings that begin alike, single-child chains, leaves at different depths."""
    rng = np.random.default_rng(0)
    alike = depths = chains = 0
    for num_leaves in range(1, 40):
        tree = random_tree(rng, num_leaves)
        assert len(tree.leaves()) == num_leaves
        for below in tree.children():
            firsts = [int(tree.nodes[i].token_ids[0]) for i in below]
            alike += len(firsts) - len(set(firsts))
            chains += len(below) == 1
        depths += len({len(t.nodes) for t in tree.trajectories()})
    assert min(alike, depths, chains) > 100

"""Components add up to the advantage they explain."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import complete_tree, trees
from treepo.credit.base import Advantages, SupportsComponents, sum_components
from treepo.credit.group import GRPO, RLOO, DrGRPO, MaxRL, REINFORCEPlusPlus
from treepo.credit.prefix import TEMPO, TreeAdv
from treepo.credit.segment import SPO, FadingDifference, TreeRL, ValueDifference
from treepo.credit.subgroup import TreePO
from treepo.tree import ROOT, Node, StopReason, Tree

pytestmark = pytest.mark.quick

flags = st.booleans()
of_leaves = st.builds(
    lambda estimator, leaves: replace(estimator, leaves=leaves, whiten=False),
    st.one_of(
        st.sampled_from([GRPO(), GRPO(eps=0.5), DrGRPO(), RLOO(), REINFORCEPlusPlus()]),
        st.builds(
            TreePO,
            weight=st.sampled_from(["equal", "size"]),
            reject_agreeing=flags,
            with_root=flags,
            distinct=flags,
            divide_by_std=flags,
        ),
    ),
    st.sampled_from(["equal", "unbiased"]),
)
kinds_of_values = st.sampled_from(["children", "leaves"])
of_nodes = st.one_of(
    st.builds(ValueDifference, kinds_of_values, flags),
    st.builds(SPO, kinds_of_values, flags),
    st.builds(TreeRL, values=kinds_of_values, join_chains=flags, level=st.sampled_from(["segment", "turn"])),
    st.sampled_from([FadingDifference(), FadingDifference(eta=0.7), TreeAdv(), TEMPO()]),
)


@given(trees(), st.one_of(of_leaves, of_nodes, st.just(MaxRL())), st.data())
def test_components_add_up_to_the_advantages(tree, estimator, data):
    """For every built-in estimator and all of its options; small stds enlarge rounding, so errors are relative."""
    rewards = np.array(
        data.draw(st.lists(st.sampled_from([0, 1, 0.25, 2]), min_size=(n := len(tree.leaves())), max_size=n))
    )
    rewards = rewards.astype(float)
    advantages = estimator(tree, rewards)
    expected = Advantages.by(estimator, advantages).node_means(tree) if estimator.per_node else advantages
    components = estimator.components(tree, rewards)
    scale = max([1.0, *(abs(component.weight) for own in components for component in own)])
    np.testing.assert_allclose(sum_components(components), expected, rtol=0, atol=1e-12 * scale)
    for own in components:
        for component in own:
            assert 0 <= component.node < len(tree.nodes)
            assert component.size <= len(rewards)


def test_a_leaf_of_a_complete_tree_is_compared_with_the_leaves_of_each_ancestor():
    """Eight leaves, the first wrong: among all 7/8 are right, in its half 3/4, in its pair 1/2."""
    components = TreePO().components(complete_tree(3), np.array([0.0] + 7 * [1.0]))
    found = [
        (component.name, component.node, component.size, component.mean, component.value) for component in components[0]
    ]
    assert found == [
        ("all leaves", 0, 8, 0.875, -0.875),
        ("leaves below node 1", 1, 4, 0.75, -0.75),
        ("leaves below node 3", 3, 2, 0.5, -0.5),
    ]
    assert [component.weight for component in components[0]] == pytest.approx(3 * [1 / 3])


@pytest.mark.parametrize(
    ("estimator", "below_the_prompt", "deeper"),
    [
        (ValueDifference(), ["value of the prompt"], ["value of node 1"]),
        (SPO(), ["children of the prompt"], ["children of node 1"]),
        (TreeRL(), ["value of the prompt"], ["value of the prompt", "value of node 1"]),
        (FadingDifference(), ["its own value", "value of the prompt"], ["its own value", "value of node 1"]),
        (TreeAdv(), ["all leaves"], ["all leaves"]),
        (TEMPO(), ["all leaves", "value of the prompt"], ["all leaves", "value of node 1"]),
    ],
)
def test_each_value_is_named_once_and_the_root_is_the_prompt(estimator, below_the_prompt, deeper):
    """It was "node 0", which `TreeRL` named twice for children of the prompt; of `FadingDifference` the node itself
    stood among what it is compared with."""
    tree = complete_tree(2)
    components = estimator.components(tree, np.array([0.0, 1, 1, 1]))
    assert [component.name for component in components[1]] == below_the_prompt
    assert [component.name for component in components[tree.children()[1][0]]] == deeper


def test_leaves_that_count_nothing_are_not_in_the_size_of_a_group():
    """What a fallback drew counts nothing with `leaves = "unbiased"`."""
    tree = Tree.from_prompt("p", np.array([1]), 0)
    for is_resumed in (False, False, True):
        tree.add(Node(ROOT, np.array([2]), np.zeros(1, np.float32), 0, StopReason.EOS, is_resumed))
    rewards = np.array([0.0, 1, 1])
    for leaves, size in (("equal", 3), ("unbiased", 2)):
        components = DrGRPO(leaves=leaves).components(tree, rewards)
        assert {component.size for own in components for component in own} == {size}


def test_a_custom_estimator_needs_no_components():
    class Own:
        per_node = False
        whiten = False

        def __call__(self, tree, rewards):
            return rewards

    assert not isinstance(Own(), SupportsComponents)
    assert isinstance(TreePO(), SupportsComponents)

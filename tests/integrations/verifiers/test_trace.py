"""Trees as the `Trace` of verifiers, read by the library itself, and back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

vf = pytest.importorskip("verifiers.v1")

from tests.trees import random_tree, with_observed  # noqa: E402
from treepo.integrations.verifiers import from_trace, to_trace  # noqa: E402
from treepo.tree import Node, StopReason, Tree  # noqa: E402


def assert_equal(one: Tree, other: Tree) -> None:
    for name in ("problem_id", "num_dropped", "num_fallbacks", "weights_version"):
        assert getattr(one, name) == getattr(other, name), name
    assert len(one.nodes) == len(other.nodes)
    for mine, theirs in zip(one.nodes, other.nodes, strict=True):
        arrays = {"token_ids": None, "sampled_logprobs": None}
        assert replace(mine, **arrays).__dict__ == replace(theirs, **arrays).__dict__
        assert mine.token_ids.dtype == theirs.token_ids.dtype and np.array_equal(mine.token_ids, theirs.token_ids)
        if mine.sampled_logprobs is None or theirs.sampled_logprobs is None:
            assert mine.sampled_logprobs is theirs.sampled_logprobs
        else:
            assert mine.sampled_logprobs.dtype == theirs.sampled_logprobs.dtype
            assert np.array_equal(mine.sampled_logprobs, theirs.sampled_logprobs)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), num_leaves=st.integers(1, 8), observes=st.booleans())
def test_every_tree_comes_back_and_its_branches_are_its_trajectories(seed, num_leaves, observes):
    """In memory, over the library's wire and its JSON records. Fallbacks split nodes, so some parents come later."""
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, num_leaves)
    tree = with_observed(tree, rng) if observes else tree
    tree.num_dropped, tree.num_fallbacks, tree.weights_version = 3, int(rng.integers(5)), int(rng.integers(9))
    trace = to_trace(tree)
    for branch, leaf in zip(trace.branches, tree.leaves(), strict=True):
        path = tree.trajectory(leaf)
        assert branch.token_ids == tree.ids(leaf).tolist()
        num_prompt = len(tree.prompt_ids)
        assert branch.sampled_mask == [False] * num_prompt + (~path.observed).tolist()
        np.testing.assert_array_equal(branch.logprobs[num_prompt:], np.nan_to_num(path.sampled_logprobs))
    assert sum(len(node.token_ids) for node in trace.nodes) == sum(len(node.token_ids) for node in tree.nodes)
    assert all(node.parent is None or node.parent < i for i, node in enumerate(trace.nodes))
    assert_equal(from_trace(trace), tree)
    assert_equal(from_trace(vf.WireTrace.model_validate(trace.model_dump())), tree)
    record = json.loads(json.dumps(trace.to_record(float_decimals=None)))
    assert_equal(from_trace(vf.WireTrace.model_validate(record)), tree)


def test_messages_have_their_roles_and_texts():
    tree = Tree.from_prompt("p", np.array([1, 2]), seed=0)
    asks = tree.add(Node(0, np.array([3], np.int32), np.array([-0.5], np.float32), 1))
    told = tree.add(Node(asks, np.array([4, 5], np.int32), None, 2, observed=True, reward=0.5, role="tool"))
    tree.add(Node(told, np.array([6], np.int32), np.array([-1.5], np.float32), 3, StopReason.LENGTH))
    trace = to_trace(tree, lambda ids: "".join(chr(96 + i) for i in ids))
    assert [(m.role, m.content) for m in trace.messages] == [
        ("user", "ab"),
        ("assistant", "c"),
        ("tool", "de"),
        ("assistant", "f"),
    ]
    assert trace.is_truncated and trace.num_turns == 2
    assert_equal(from_trace(trace), tree)


def test_another_trace_is_refused():
    trace = to_trace(random_tree(np.random.default_rng(0), 2))
    trace.info.clear()
    with pytest.raises(ValueError, match="not written by to_trace"):
        from_trace(trace)

"""Tokens that were not sampled are forwarded, and are in no sum."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learn.reference import all_logprobs, ppo, sampled_by
from tests.models import make_tiny_model
from tests.trees import add_segment, random_tree, with_observed
from treepo.credit.base import Advantages, Estimator, sum_components, without_observed
from treepo.credit.group import GRPO
from treepo.credit.leaf_weights import group_means, leaf_weights
from treepo.credit.prefix import TEMPO, TreeAdv
from treepo.credit.segment import SPO, FadingDifference, TreeRL, ValueDifference
from treepo.credit.subgroup import TreePO
from treepo.grow.shape import TreeShape
from treepo.learn.advantages import compute_advantages
from treepo.learn.losses import PPO, Penalties, TokenMean
from treepo.learn.metrics import tree_metrics
from treepo.learn.packing import num_distinct, pack, pack_in_parts
from treepo.learn.scoring import Scorer, collate
from treepo.learn.updater import Updater, with_leaf_weights
from treepo.model.attention import ATTENTION_NAME
from treepo.tree import ROOT, Node, StopReason, Tree

pytestmark = pytest.mark.quick

ESTIMATORS: list[Any] = [
    GRPO(),
    TreePO(),
    TreePO(distinct=True),
    ValueDifference(),
    SPO(),
    TreeRL(),
    FadingDifference(),
    SPO(level="turn"),
    TreeAdv(),
    TEMPO(),
]


@st.composite
def observed_trees(draw: st.DrawFn) -> Tree:
    """Random trees, some of whose nodes were observed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tree = random_tree(rng, int(rng.integers(2, 9)), vocab=6, max_segments=4)
    return with_observed(tree, rng, float(rng.choice([0.2, 0.5, 1.0])))


def sampled_tokens(tree: Tree, leaf: int) -> list[tuple[int, int]]:
    """(place in prompt and path, node) of each sampled token of a trajectory, counted without the tree's own views."""
    found, place = [], 0
    for i in tree.path(leaf):
        for _ in tree.nodes[i].token_ids:
            if i != ROOT and not tree.nodes[i].observed:
                found.append((place, i))
            place += 1
    return found


@given(observed_trees())
@settings(deadline=None)
def test_no_view_counts_an_observed_token(tree: Tree) -> None:
    check_views(tree)


def check_views(tree: Tree) -> None:
    """Lengths, logs, metrics and numbers of tokens are of what was sampled."""
    per_leaf = [sampled_tokens(tree, leaf) for leaf in tree.leaves()]
    assert tree.response_lens().tolist() == [len(own) for own in per_leaf]
    for leaf, own in zip(tree.leaves(), per_leaf, strict=True):
        trajectory = tree.trajectory(leaf)
        assert [*tree.prompt_ids, *trajectory.token_ids] == tree.ids(leaf).tolist()
        assert trajectory.sampled_ids.tolist() == tree.ids(leaf)[[place for place, _ in own]].tolist()
        assert np.array_equal(np.isnan(trajectory.sampled_logprobs), trajectory.observed)
    nodes = [n for i, n in enumerate(tree.nodes) if i != ROOT and not n.observed]
    assert tree.num_decoded() - tree.num_dropped == sum(len(n.token_ids) for n in nodes)
    metrics = tree_metrics([tree], TreeShape(depth=50, segment_len=50))
    logprobs = np.concatenate([n.sampled_logprobs for n in nodes if n.sampled_logprobs is not None])
    assert metrics["entropy"] == pytest.approx(-logprobs.mean(dtype=np.float64))
    assert metrics["tokens/total"] == sum(map(len, per_leaf))
    paths = zip(tree.leaves(), per_leaf, strict=True)
    distinct = {tuple(tree.ids(leaf)[: place + 1].tolist()) for leaf, own in paths for place, _ in own}
    assert num_distinct(tree) == len(distinct)


@given(observed_trees())
@settings(deadline=None)
def test_targets_are_sampled_tokens(tree: Tree) -> None:
    check_targets(tree)


def check_targets(tree: Tree) -> None:
    """Whole or in parts, each sampled token of each trajectory is a target once, and observed ones only forwarded."""
    per_leaf = [sampled_tokens(tree, leaf) for leaf in tree.leaves()]
    for parts in ([pack(tree, np.zeros(len(per_leaf)))], pack_in_parts(tree, np.zeros(len(per_leaf)), 6)):
        assert sum(part.lens.sum() for part in parts) == sum(map(len, per_leaf))
        assert sum(int((part.leaf_ends - part.leaf_starts).sum()) for part in parts) == sum(map(len, per_leaf))
        for part in parts:
            assert not any(tree.nodes[i].observed for i in part.target_nodes)
            assert np.isfinite(part.sampled_logprobs).all()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: repr(e)[:30])
@given(tree=observed_trees(), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_estimators_see_only_what_was_sampled(estimator: Estimator, tree: Tree, seed: int) -> None:
    """Advantages are those of the tree in which observed nodes never were; whitened, too."""
    rewards = np.random.default_rng(seed).normal(size=len(tree.leaves()))
    bare, names = bare_tree(tree)
    [own] = compute_advantages([tree], [rewards], estimator).by_tree
    [other] = compute_advantages([bare], [rewards], estimator).by_tree
    assert own is not None and other is not None
    if own.per_token:
        assert np.array_equal(own.values, other.values)
    elif getattr(estimator, "level", "segment") == "turn":
        # The bare tree does not know where turns end.
        assert len(own.values) == len(tree.nodes)
    else:
        values = own.values if not estimator.per_node else own.values[names]
        assert np.allclose(values, other.values, rtol=1e-12, atol=1e-12)
    if estimator.per_node:
        observed = [i for i, n in enumerate(tree.nodes) if n.observed]
        assert not own.node_means(tree)[observed].any()
    if not estimator.whiten:
        components = estimator.components(without_observed(tree), rewards)  # type: ignore[attr-defined]
        expected = own.node_means(tree) if own.per_node else own.values
        assert np.allclose(sum_components(components), expected)


def bare_tree(tree: Tree) -> tuple[Tree, list[int]]:
    """The tree without its observed nodes, and the index in the tree of each of its nodes."""
    names = [i for i, n in enumerate(tree.nodes) if not n.observed]

    def above(i: int) -> int:
        parent = tree.nodes[i].parent
        return above(parent) if parent >= 0 and tree.nodes[parent].observed else parent

    nodes = [replace(tree.nodes[i], parent=names.index(above(i)) if i else -1) for i in names]
    return Tree(tree.problem_id, nodes), names


def turns_tree(rng: np.random.Generator, num_leaves: int = 6) -> Tree:
    """A tree as an environment makes it: what it writes follows a turn that ended, and is an only child."""
    tree = Tree.from_prompt("turns", rng.integers(6, size=3), 0)
    open_nodes = [ROOT]
    for i in range(num_leaves):
        node = int(rng.choice(open_nodes))
        for is_last in (False, rng.random() < 0.5, True):
            stop = StopReason.ENV_DONE if is_last else None
            node = add_segment(tree, node, rng.integers(6, size=rng.integers(1, 4)), stop, from_fallback=i > 3)
            if is_last:
                break
            if rng.random() < 0.7:
                reply = rng.integers(6, size=rng.integers(1, 4)).astype(np.int32)
                node = tree.add(Node(node, reply, None, 0, observed=True, reward=1.0))
            open_nodes.append(node)
    return tree


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_weights_of_leaves_are_those_of_the_sampled_tree(seed: int) -> None:
    """With what the environment wrote, as estimators see it, and without it; an observed node is no draw."""
    rng = np.random.default_rng(seed)
    tree = turns_tree(rng)
    bare, names = bare_tree(tree)
    values = rng.normal(size=len(tree.leaves()))
    for kind in ("ignored", "alike", "all"):
        assert np.allclose(leaf_weights(tree, kind), leaf_weights(bare, kind))
        assert np.allclose(leaf_weights(without_observed(tree), kind), leaf_weights(bare, kind))
        assert np.allclose(group_means(tree, values, kind)[names], group_means(bare, values, kind))


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_rows_with_a_mask(seed: int) -> None:
    """Packed trees with observed nodes against each trajectory by itself, its loss masked where it was observed."""
    model, plain = (make_tiny_model(dtype=torch.float64, seed=seed, attention=a) for a in (ATTENTION_NAME, "sdpa"))
    rng = np.random.default_rng(seed)
    drawn = [random_tree(rng, 5, vocab=6, max_segments=4) for _ in range(2)]
    trees = [with_observed(sampled_by(plain, tree, rng, 0.3), rng, 0.7) for tree in drawn]
    assert any(tree.has_observed for tree in trees)
    advantages = [rng.normal(size=len(tree.leaves())) for tree in trees]

    losses = []
    for tree, values in zip(trees, advantages, strict=True):
        for leaf, advantage in zip(tree.leaves(), values.tolist(), strict=True):
            ids, trajectory = tree.ids(leaf), tree.trajectory(leaf)
            first = len(tree.prompt_ids)
            logprobs = all_logprobs(plain, ids.tolist())[np.arange(first - 1, len(ids) - 1), ids[first:].astype(int)]
            mask = torch.from_numpy(~trajectory.observed)
            sampled = torch.from_numpy(trajectory.sampled_logprobs).double()
            losses.append(ppo(0.2, 0.28)(logprobs[mask], sampled[mask], advantage))
    expected = torch.cat(losses).mean()
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in plain.named_parameters() if p.grad is not None}

    parts = [part for tree, a in zip(trees, advantages, strict=True) for part in pack_in_parts(tree, Advantages(a), 20)]
    weighted = with_leaf_weights(parts, TokenMean())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    updater = Updater(
        scorer=Scorer(model),
        loss=PPO(0.2, 0.28),
        aggregation=TokenMean(),
        penalties=Penalties(),
        optimizer=optimizer,
        schedule=schedule,
        max_tokens_per_micro_batch=100,
        max_grad_norm=1.0,
    )
    value, _, gaps = updater.loss_sum(collate(weighted))
    value.backward()
    assert np.isfinite(gaps).all()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12)


def test_a_leaf_is_never_observed() -> None:
    tree = Tree.from_prompt("p", np.zeros(1), 0)
    with pytest.raises(AssertionError):
        tree.add(Node(ROOT, np.zeros(1, np.int32), None, 0, StopReason.EOS, observed=True))
    with pytest.raises(AssertionError):
        tree.add(Node(ROOT, np.zeros(1, np.int32), np.zeros(1, np.float32), 0, observed=True))


def test_a_cut_at_the_end_of_a_turn_keeps_the_reply() -> None:
    """A path that goes on there has been told what the environment said."""
    tree = Tree.from_prompt("p", np.zeros(1), 0)
    first = add_segment(tree, ROOT, [1, 2])
    reply = tree.add(Node(first, np.array([3, 4], np.int32), None, 0, observed=True))
    leaf = add_segment(tree, reply, [5, 6], StopReason.ENV_DONE)
    assert tree.cut(leaf, 2) == reply
    assert tree.ids(tree.cut(leaf, 1)).tolist() == [0, 1]
    assert tree.ids(tree.cut(leaf, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert tree.cut(leaf, 0) == ROOT

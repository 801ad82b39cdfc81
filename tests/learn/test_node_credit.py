"""Updates with one advantage per node against trajectories one by one, token by token."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.learn.reference import Formula, case_id, cispo, ppo, random_trees, reinforce, response_logprobs
from tests.learn.test_update import AGGREGATIONS, ALL_TOKENS, gradients, largest_difference, updater_of
from tests.models import make_tiny_model
from treepo.credit.base import Advantages, Estimator
from treepo.credit.prefix import TEMPO, TreeAdv
from treepo.credit.segment import SPO, FadingDifference, TreeRL, ValueDifference
from treepo.errors import NonFiniteUpdateError
from treepo.learn.losses import CISPO, GSPO, PPO, REINFORCE, Aggregation, Loss
from treepo.learn.packing import PackedTree, pack, pack_trajectories
from treepo.learn.updater import Updater
from treepo.tree import Tree

LOSSES: list[tuple[Loss, Formula]] = [
    (PPO(0.1, 0.3), ppo(0.1, 0.3)),
    (PPO(0.2, 0.28, dual_clip=1.3), ppo(0.2, 0.28, 1.3)),
    (CISPO(max_weight=1.2, min_weight=0.7), cispo(0.7, 1.2)),
    (REINFORCE(), reinforce()),
]


def node_advantages(trees: Sequence[Tree], seed: int) -> list[Advantages]:
    """Of mixed sign, and some of them 0."""
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(size=len(tree.nodes)) * (rng.random(len(tree.nodes)) < 0.8) for tree in trees]
    return [Advantages(values, per_node=True) for values in drawn]


def token_losses(
    model: PreTrainedModel, trees: Sequence[Tree], advantages: Sequence[Advantages], formula: Formula
) -> list[Tensor]:
    """Per trajectory the published loss of each token, with the advantage of the node that it is of."""
    losses = []
    for tree, own_advantages in zip(trees, advantages, strict=True):
        values = own_advantages.values
        for i, leaf in enumerate(tree.leaves()):
            logprobs = response_logprobs(model, tree, leaf)
            nodes = tree.path(leaf)[1:]
            if own_advantages.per_token:
                before = sum(tree.response_lens()[:i])
                sampled = torch.from_numpy(tree.trajectory(leaf).sampled_logprobs).to(logprobs.dtype)
                one_by_one = zip(logprobs, sampled, values[before : before + len(logprobs)].tolist(), strict=True)
                losses.append(torch.stack([formula(*token) for token in one_by_one]))
                continue
            own = logprobs.split([len(tree.nodes[i].token_ids) for i in nodes])
            sampled = [torch.from_numpy(tree.logprobs(i)).to(logprobs.dtype) for i in nodes]
            of_leaf = values if values.ndim == 1 else values[:, tree.leaves().index(leaf)]
            parts = zip(own, sampled, of_leaf[nodes].tolist(), strict=True)
            losses.append(torch.cat([formula(*part) for part in parts]))
    return losses


def packed_by(updater: Updater, trees: Sequence[Tree], advantages: Sequence[Advantages]) -> list[PackedTree]:
    return [part for tree, own in zip(trees, advantages, strict=True) for part in updater.pack(tree, own)]


def pair_advantages(trees: Sequence[Tree], seed: int) -> list[Advantages]:
    """Of each node in each trajectory: where a token is shared, some push it up and some down."""
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(size=(len(tree.nodes), len(tree.leaves()))) for tree in trees]
    return [Advantages(values, per_node=True) for values in drawn]


@pytest.mark.parametrize("make_advantages", [node_advantages, pair_advantages])
@pytest.mark.parametrize(("aggregation", "aggregate"), AGGREGATIONS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(("loss", "formula"), LOSSES, ids=case_id)
def test_every_token_loss_is_exact(
    loss: Loss,
    formula: Formula,
    aggregation: Aggregation,
    aggregate: Callable[[Sequence[Tensor]], Tensor],
    make_advantages: Callable[[Sequence[Tree], int], list[Advantages]],
) -> None:
    """Value and gradients are those of trajectories one by one, to 1e-12: packed whole, in parts, and not packed."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=8, num_trees=3)
    advantages = make_advantages(trees, 8)
    value = aggregate(token_losses(plain, trees, advantages, formula))
    value.backward()
    for max_tokens, packing in ((ALL_TOKENS, True), (20, True), (20, False)):
        model = make_tiny_model(dtype=torch.float64)
        updater = replace(updater_of(model, max_tokens, loss=loss, aggregation=aggregation), packing=packing)
        parts = packed_by(updater, trees, advantages)
        assert (len(parts) > len(trees)) == (max_tokens == 20)
        metrics = updater.update(parts)
        assert metrics["update/loss"] == pytest.approx(float(value.detach()), rel=1e-12, abs=1e-12)
        assert largest_difference(gradients(model), gradients(plain)) < 1e-12
        assert max(float(g.abs().max()) for g in gradients(plain).values()) > 0.01


@pytest.mark.parametrize("packing", [True, False])
def test_what_is_clipped_is_counted_by_token(packing: bool) -> None:
    """Of all tokens of all trajectories, those that a bound holds back for the advantage of their own node."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=2, num_trees=4)
    advantages = node_advantages(trees, seed=2)
    num_clipped = num_tokens = 0
    with torch.no_grad():
        for tree, values in zip(trees, advantages, strict=True):
            for leaf in tree.leaves():
                ratios = torch.exp(
                    response_logprobs(plain, tree, leaf) - torch.from_numpy(tree.trajectory(leaf).sampled_logprobs)
                ).numpy()
                nodes = tree.path(leaf)[1:]
                a = np.repeat(values.values[nodes], [len(tree.nodes[i].token_ids) for i in nodes])
                num_clipped += int((((ratios > 1.28) & (a > 0)) | ((ratios < 0.8) & (a < 0))).sum())
                num_tokens += len(ratios)
    updater = replace(updater_of(make_tiny_model(dtype=torch.float64)), packing=packing)
    metrics = updater.update(packed_by(updater, trees, advantages))
    assert metrics["clip_ratio/region_mean"] == pytest.approx(num_clipped / num_tokens, rel=1e-10)
    assert num_clipped > 0


@pytest.mark.parametrize(
    "estimator",
    [SPO(), TreeRL(), ValueDifference(), FadingDifference(0.8), ValueDifference(level="turn"), TreeAdv(), TEMPO()],
    ids=str,
)
def test_estimators_reach_their_tokens(estimator: Estimator) -> None:
    """From rewards to gradients: each segment's tokens are pushed by what the estimator gave its node, or the token."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=5, num_trees=3)
    rng = np.random.default_rng(5)
    rewards = [rng.choice([0.0, 1.0], len(tree.leaves())) for tree in trees]
    advantages = [Advantages.by(estimator, estimator(t, r)) for t, r in zip(trees, rewards, strict=True)]
    torch.cat(token_losses(plain, trees, advantages, ppo(0.2, 0.28))).mean().backward()
    # In parts and not packed where no other test has values of tokens.
    layouts = [(ALL_TOKENS, True), (20, True), (20, False)]
    for max_tokens, packing in layouts if advantages[0].per_token else layouts[:1]:
        model = make_tiny_model(dtype=torch.float64)
        updater = replace(updater_of(model, max_tokens), packing=packing)
        updater.update(packed_by(updater, trees, advantages))
        assert largest_difference(gradients(model), gradients(plain)) < 1e-12


def test_nodes_that_all_have_the_advantage_of_their_leaf_are_trajectories() -> None:
    """On a single trajectory both forms of credit are one."""
    model = make_tiny_model(dtype=torch.float64)
    trees = random_trees(make_tiny_model(dtype=torch.float64, attention="sdpa"), 3, 3)
    for tree in trees:
        leaf = tree.leaves()[0]
        nodes = np.where(np.isin(np.arange(len(tree.nodes)), tree.path(leaf)), 1.5, 0.0)
        leaves = np.where(np.array(tree.leaves()) == leaf, 1.5, 0.0)
        updater_of(model).update([pack(tree, leaves, [0])])
        by_leaf = gradients(model)
        updater_of(model).update([pack(tree, Advantages(nodes, per_node=True), [0])])
        assert largest_difference(gradients(model), by_leaf) < 1e-12


def test_a_loss_of_trajectories_does_not_take_them() -> None:
    """They have no advantage of their own: settings refuse it, and nothing is trained on something else instead."""
    model = make_tiny_model(dtype=torch.float64)
    trees = random_trees(make_tiny_model(dtype=torch.float64, attention="sdpa"), 3, 1)
    with pytest.raises(NonFiniteUpdateError):
        updater_of(model, loss=GSPO()).update(pack_trajectories(trees[0], node_advantages(trees, 0)[0])[:1])

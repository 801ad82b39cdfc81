"""Trajectories that were cut off add nothing to the loss, and penalties change over a run."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.learn.reference import random_advantages, random_trees, response_logprobs
from tests.learn.test_update import gradients, largest_difference, updater_of
from tests.models import make_tiny_model
from treepo.config.load import resolve
from treepo.errors import SettingError
from treepo.learn.losses import (
    GSPO,
    REINFORCE,
    Aggregation,
    ConstantLength,
    Penalties,
    TokenMean,
    TrajectoryMean,
)
from treepo.learn.packing import CUT_OFF, pack, pack_in_parts, split_packed
from treepo.learn.updater import Updater, with_leaf_weights
from treepo.tree import StopReason, Tree


def trees_with_cut_leaves(seed: int) -> list[Tree]:
    """Random trees, about half of whose leaves ended at one of the two limits."""
    trees = random_trees(make_tiny_model(dtype=torch.float64, attention="sdpa"), seed, num_trees=3)
    rng = np.random.default_rng(seed)
    for tree in trees:
        for leaf in tree.leaves():
            stop = rng.choice([StopReason.LENGTH, StopReason.DEPTH, StopReason.ANSWER, StopReason.EOS])
            tree.nodes[leaf] = replace(tree.nodes[leaf], stop=StopReason(stop))
    return trees


def is_cut(tree: Tree) -> np.ndarray:
    return np.array([tree.nodes[leaf].stop in CUT_OFF for leaf in tree.leaves()])


# As in TRL's GRPOTrainer, loss types "dapo"/"bnpo", "grpo" and "dr_grpo": losses [B, n] and masks of the completions.
TRL: dict[str, Callable[[list[torch.Tensor], list[torch.Tensor]], torch.Tensor]] = {
    "dapo": lambda losses, masks: (
        torch.stack([(one * mask).sum() for one, mask in zip(losses, masks, strict=True)]).sum()
        / torch.cat(masks).sum().clamp(min=1.0)
    ),
    "grpo": lambda losses, masks: torch.stack(
        [(one * mask).sum() / mask.sum().clamp(min=1.0) for one, mask in zip(losses, masks, strict=True)]
    ).mean(),
    "dr_grpo": lambda losses, masks: (
        torch.stack([(one * mask).sum() for one, mask in zip(losses, masks, strict=True)]).sum() / (len(losses) * 20)
    ),
}


@pytest.mark.parametrize("max_tokens", [25, 10**6])
@pytest.mark.parametrize(
    ("aggregation", "kind"),
    [(TokenMean(), "dapo"), (TrajectoryMean(), "grpo"), (ConstantLength(20), "dr_grpo")],
    ids=str,
)
def test_masked_losses_are_those_of_trl(aggregation: Aggregation, kind: str, max_tokens: int) -> None:
    """Also where a masked trajectory shares tokens with others, and where a tree is packed in parts; the entropy bonus
    is masked, too."""
    trees = trees_with_cut_leaves(3)
    advantages = random_advantages(trees, 3)
    assert any(is_cut(tree).any() and not is_cut(tree).all() for tree in trees)
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    losses, masks = [], []
    for tree, own in zip(trees, advantages, strict=True):
        for leaf, advantage, cut in zip(tree.leaves(), own, is_cut(tree), strict=True):
            logprobs = response_logprobs(plain, tree, leaf)
            losses.append(-advantage * logprobs)
            masks.append(torch.full_like(logprobs, float(not cut)))
    expected = TRL[kind](losses, masks)
    expected.backward()
    model = make_tiny_model(dtype=torch.float64)
    updater = updater_of(model, max_tokens, loss=REINFORCE(), aggregation=aggregation)
    updater = replace(updater, mask_truncated_completions=True)
    parts = [part for tree, own in zip(trees, advantages, strict=True) for part in updater.pack(tree, own)]
    metrics = updater.update(parts)
    assert largest_difference(gradients(model), gradients(plain)) < 1e-12
    assert metrics["update/loss"] == pytest.approx(float(expected.detach()), rel=1e-12)


def test_a_masked_trajectory_is_as_good_as_none() -> None:
    """Its advantage changes nothing, of a loss over whole trajectories and of penalties neither, nor any metric but
    those of the engine."""
    trees = trees_with_cut_leaves(4)
    advantages = random_advantages(trees, 4)
    others = [np.where(is_cut(tree), 100.0, own) for tree, own in zip(trees, advantages, strict=True)]
    found = []
    for own in (advantages, others):
        model = make_tiny_model(dtype=torch.float64)
        updater = updater_of(model, loss=GSPO(), penalties=Penalties(entropy_coef=0.1))
        updater = replace(updater, mask_truncated_completions=True)
        metrics = updater.update([pack(tree, values) for tree, values in zip(trees, own, strict=True)])
        found.append((metrics, gradients(model)))
    assert found[0][0] == found[1][0]
    assert largest_difference(found[0][1], found[1][1]) == 0


def test_an_update_of_masked_trajectories_alone_moves_nothing() -> None:
    trees = trees_with_cut_leaves(5)
    packed = [pack(tree, own) for tree, own in zip(trees, random_advantages(trees, 5), strict=True)]
    packed = [replace(one, is_truncated=np.ones(len(one.lens), bool)) for one in packed]
    for aggregation in (TokenMean(), TrajectoryMean(), ConstantLength(9)):
        model = make_tiny_model()
        updater = replace(updater_of(model, aggregation=aggregation), mask_truncated_completions=True)
        metrics = updater.update(packed)
        assert metrics["update/grad_norm"] == 0 == metrics["update/loss"]
        assert all(np.isfinite(value) for value in metrics.values())


def test_parts_of_a_tree_know_which_leaves_were_cut() -> None:
    for seed in range(5):
        for tree in trees_with_cut_leaves(seed):
            places = np.arange(len(tree.leaves()), dtype=float)
            whole = pack(tree, places)
            for parts in (pack_in_parts(tree, places, 12), split_packed(whole, 12), [whole]):
                for part in parts:
                    order = part.leaf_advantages.astype(int)
                    assert np.array_equal(part.is_truncated, is_cut(tree)[order])


def test_nothing_is_masked_by_default() -> None:
    trees = trees_with_cut_leaves(6)
    packed = [pack(tree, own) for tree, own in zip(trees, random_advantages(trees, 6), strict=True)]
    assert all((one.leaf_weights > 0).all() for one in with_leaf_weights(packed, TokenMean()))
    assert not resolve({}).train.mask_truncated_completions


def scheduled_updater(penalties: Penalties, num_updates: int = 5) -> Updater:
    updater = updater_of(make_tiny_model(), penalties=penalties)
    return replace(updater, num_updates=num_updates, reference=make_tiny_model(seed=1))


@pytest.mark.parametrize(
    ("kind", "kl", "entropy"),
    [
        ("linear", [0.4, 0.3, 0.2, 0.1, 0.0, 0.0], [0.0, 0.02, 0.04, 0.06, 0.08, 0.08]),
        ("cosine", [0.4, 0.2 + 0.2 * 0.5**0.5, 0.2, 0.2 - 0.2 * 0.5**0.5, 0.0, 0.0], None),
    ],
)
def test_coefficients_go_from_the_first_to_the_last_update(kind: str, kl: list, entropy: list | None) -> None:
    """And stay there in a run that goes further than was planned."""
    penalties = Penalties(
        kl_coef=0.4,
        kl_coef_end=0.0,
        entropy_coef=0.0,
        entropy_coef_end=0.08,
        scheduler_type=kind,  # pyright: ignore[reportArgumentType]
    )
    assert penalties.needs_reference
    updater = scheduled_updater(penalties)
    trees = trees_with_cut_leaves(7)
    packed = updater.prepare([pack(tree, own) for tree, own in zip(trees, random_advantages(trees, 7), strict=True)])
    metrics = [updater.update(packed) for _ in range(6)]
    assert [one["update/kl_coef"] for one in metrics] == pytest.approx(kl, abs=1e-12)
    if entropy is not None:
        assert [one["update/entropy_coef"] for one in metrics] == pytest.approx(entropy, abs=1e-12)


def test_an_update_has_the_coefficients_of_its_place() -> None:
    """The gradients of the third of five updates are those of a run with its coefficients all along."""
    trees = trees_with_cut_leaves(8)
    packed = [pack(tree, own) for tree, own in zip(trees, random_advantages(trees, 8), strict=True)]
    found = []
    changing = Penalties(kl_coef=0.4, kl_coef_end=0.0, entropy_coef_end=0.1)
    for penalties in (changing, Penalties(kl_coef=0.2, entropy_coef=0.05)):
        updater = scheduled_updater(penalties)
        ready = updater.prepare(packed)
        for _ in range(3):
            updater.update(ready)
        found.append(gradients(updater.scorer.model))
    assert largest_difference(*found) < 1e-7


def test_coefficients_without_an_end_stay_and_are_not_logged() -> None:
    updater = scheduled_updater(Penalties(kl_coef=0.4))
    assert updater.current_penalties is updater.penalties
    assert Penalties(kl_coef_end=0.1).needs_reference and not Penalties(entropy_coef=0.1).needs_reference


def test_an_impossible_end_is_refused() -> None:
    with pytest.raises(SettingError, match="^kl_coef_end: must not be negative"):
        Penalties(kl_coef_end=-0.1)

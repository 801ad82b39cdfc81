"""One update from packed trees against trajectories one by one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.learn.reference import (
    Formula,
    all_logprobs,
    case_id,
    cispo,
    constant_length,
    flatten,
    gspo,
    ppo,
    random_advantages,
    random_trees,
    reinforce,
    response_logprobs,
    separate_loss,
    sequences_of,
    token_mean,
    trajectory_mean,
)
from tests.models import KINDS, make_tiny_model
from treepo.errors import NonFiniteUpdateError, SettingError
from treepo.learn.losses import (
    CISPO,
    GSPO,
    PPO,
    REINFORCE,
    Aggregation,
    ConstantLength,
    KLEstimator,
    Loss,
    Penalties,
    TokenMean,
    TrajectoryMean,
)
from treepo.learn.optim import make_optimizer
from treepo.learn.packing import PackedTree, pack
from treepo.learn.scoring import Scorer
from treepo.learn.settings import OptimSettings
from treepo.learn.updater import Updater
from treepo.tree import Tree

ALL_TOKENS = 10**6


class HeldStill(torch.optim.SGD):
    """An optimiser that leaves the weights, so that their gradients can be read after an update."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.parameters(), lr=0.0)


def updater_of(
    model: PreTrainedModel,
    max_tokens: int = ALL_TOKENS,
    max_grad_norm: float = math.inf,
    scorer: Scorer | None = None,
    loss: Loss | None = None,
    aggregation: Aggregation | None = None,
    penalties: Penalties | None = None,
) -> Updater:
    """An updater whose gradients are left as they are."""
    optimizer = HeldStill(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return Updater(
        scorer=scorer or Scorer(model),
        loss=loss or PPO(),
        aggregation=aggregation or TokenMean(),
        penalties=penalties or Penalties(),
        optimizer=optimizer,
        schedule=schedule,
        max_tokens_per_micro_batch=max_tokens,
        max_grad_norm=max_grad_norm,
    )


def adam_of(model: PreTrainedModel, settings: OptimSettings) -> Updater:
    """An updater that moves the weights."""
    optimizer, schedule = make_optimizer(model, settings)
    return replace(updater_of(model), optimizer=optimizer, schedule=schedule, max_grad_norm=1.0)


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of each parameter's gradient."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def separate_gradients(
    kind: str,
    trees: Sequence[Tree],
    advantages: Sequence[np.ndarray],
    temperature: float = 1.0,
    formula: Formula | None = None,
    aggregate: Callable[[Sequence[Tensor]], Tensor] = token_mean,
) -> dict[str, torch.Tensor]:
    """Gradients of the published formula through the model as transformers runs it."""
    plain = make_tiny_model(kind, dtype=torch.float64, attention="sdpa")
    separate_loss(plain, trees, advantages, formula or ppo(0.2, 0.28), temperature, aggregate).backward()
    return gradients(plain)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Over all parameters."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def packed_trees(trees: Sequence[Tree], advantages: Sequence[np.ndarray]) -> list[PackedTree]:
    """Each tree packed with its advantages."""
    return [pack(tree, values) for tree, values in zip(trees, advantages, strict=True)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_separate_trajectories(kind: str, seed: int) -> None:
    """Packed and one by one agree to 1e-12 in every parameter, with ratios in and out of the clip range."""
    plain = make_tiny_model(kind, dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed, num_trees=3)
    advantages = random_advantages(trees, seed)
    model = make_tiny_model(kind, dtype=torch.float64)
    metrics = updater_of(model).update(packed_trees(trees, advantages))
    expected = separate_gradients(kind, trees, advantages)
    # The comparison means something: tokens are shared, some targets are clipped and some are not.
    assert sum(len(s) for t in trees for s in sequences_of(t)) > sum(len(flatten(sequences_of(t))) for t in trees)
    assert 0.05 < metrics["clip_ratio/region_mean"] < 0.95
    assert max(float(g.abs().max()) for g in expected.values()) > 0.01
    assert largest_difference(gradients(model), expected) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_attention_gives_the_same_gradients(kind: str) -> None:
    """In float32, where training on a CPU uses it, they are those of separate trajectories but for rounding."""
    trees = random_trees(make_tiny_model(kind, attention="sdpa"), seed=1, num_trees=3)
    advantages = random_advantages(trees, seed=1)
    model = make_tiny_model(kind)
    updater_of(model).update(packed_trees(trees, advantages))
    expected = separate_gradients(kind, trees, advantages)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient.double(), expected[name], rtol=1e-3, atol=1e-5)


def test_a_temperature_scales_the_logits() -> None:
    """Trees sampled at temperature 0.7 are scored at 0.7."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=5, num_trees=3)
    advantages = random_advantages(trees, seed=5)
    model = make_tiny_model(dtype=torch.float64)
    updater_of(model, scorer=Scorer(model, temperature=0.7)).update(packed_trees(trees, advantages))
    assert largest_difference(gradients(model), separate_gradients("qwen2", trees, advantages, 0.7)) < 1e-12
    assert largest_difference(gradients(model), separate_gradients("qwen2", trees, advantages)) > 1e-3


@pytest.mark.parametrize("max_tokens", [1, 60])
def test_micro_batches_change_nothing(max_tokens: int) -> None:
    """One tree at a time or all together: the mean is over the whole update."""
    model = make_tiny_model(dtype=torch.float64)
    trees = random_trees(make_tiny_model(dtype=torch.float64, attention="sdpa"), seed=1, num_trees=6)
    packed = packed_trees(trees, random_advantages(trees, seed=1))
    metrics = updater_of(model).update(packed)
    together = gradients(model)
    parts = updater_of(model, max_tokens).update(packed)
    assert largest_difference(gradients(model), together) < 1e-12
    assert parts == pytest.approx(metrics, rel=1e-10)


def test_metrics_are_means_over_response_tokens() -> None:
    """Loss, entropy, KL and clip fraction equal those of the trajectories one by one."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=2, num_trees=4)
    advantages = random_advantages(trees, seed=2)
    metrics = updater_of(make_tiny_model(dtype=torch.float64)).update(packed_trees(trees, advantages))
    entropies, kls, log_ratios = [], [], []
    with torch.no_grad():
        for tree in trees:
            for leaf in tree.leaves():
                logprobs = all_logprobs(plain, tree.ids(leaf).tolist())[len(tree.prompt_ids) - 1 :]
                entropies.append(torch.distributions.Categorical(logits=logprobs).entropy())
                sampled = torch.from_numpy(tree.trajectory(leaf).sampled_logprobs).double()
                log_ratio = response_logprobs(plain, tree, leaf) - sampled
                kls.append(torch.exp(log_ratio) - 1 - log_ratio)
                log_ratios.append(log_ratio)
        loss = separate_loss(plain, trees, advantages, ppo(0.2, 0.28))
    assert metrics["update/loss"] == pytest.approx(float(loss), rel=1e-10)
    assert metrics["update/entropy"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-10)
    assert metrics["update/approx_kl"] == pytest.approx(float(torch.cat(kls).mean()), rel=1e-10)
    assert metrics["update/approx_kl"] > 0.01
    assert metrics["clip_ratio/region_mean"] == pytest.approx(clip_fraction(trees, advantages, plain), rel=1e-10)


def clip_fraction(trees: Sequence[Tree], advantages: Sequence[np.ndarray], plain: PreTrainedModel) -> float:
    """Of all response tokens of all trajectories, those that get no gradient because of a bound.

    A token that is shared was once counted for all its trajectories when it was clipped for one of them.
    """
    num_clipped = num_tokens = 0
    for tree, values in zip(trees, advantages, strict=True):
        for leaf, advantage in zip(tree.leaves(), values, strict=True):
            with torch.no_grad():
                logprobs = response_logprobs(plain, tree, leaf)
            ratio = torch.exp(logprobs - torch.from_numpy(tree.trajectory(leaf).sampled_logprobs)).numpy()
            num_clipped += int((ratio > 1.28).sum() if advantage > 0 else (ratio < 0.8).sum())
            num_tokens += len(ratio)
    return num_clipped / num_tokens


LOSSES: list[tuple[Loss, Formula]] = [
    (PPO(0.1, 0.3), ppo(0.1, 0.3)),
    (PPO(0.2, 0.28, dual_clip=1.3), ppo(0.2, 0.28, 1.3)),
    (GSPO(0.02, 0.03), gspo(0.02, 0.03)),
    (CISPO(max_weight=1.2, min_weight=0.7), cispo(0.7, 1.2)),
    (REINFORCE(), reinforce()),
]
AGGREGATIONS: list[tuple[Aggregation, Callable[[Sequence[Tensor]], Tensor]]] = [
    (TokenMean(), token_mean),
    (TrajectoryMean(), trajectory_mean),
    (ConstantLength(20), constant_length(20)),
]


@pytest.mark.parametrize(("aggregation", "aggregate"), AGGREGATIONS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(("loss", "formula"), LOSSES, ids=case_id)
def test_every_loss_is_exact_under_packing(
    loss: Loss, formula: Formula, aggregation: Aggregation, aggregate: Callable[[Sequence[Tensor]], Tensor]
) -> None:
    """Value and gradients are those of the published formula, trajectory by trajectory, to 1e-12; micro-batches that
    cut trees in parts change nothing."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=8, num_trees=3)
    advantages = random_advantages(trees, seed=8)
    expected = separate_gradients("qwen2", trees, advantages, formula=formula, aggregate=aggregate)
    with torch.no_grad():
        value = float(separate_loss(plain, trees, advantages, formula, aggregate=aggregate))
    for max_tokens in (ALL_TOKENS, 20):
        model = make_tiny_model(dtype=torch.float64)
        updater = updater_of(model, max_tokens, loss=loss, aggregation=aggregation)
        parts = [p for tree, own in zip(trees, advantages, strict=True) for p in updater.pack(tree, own)]
        assert (len(parts) > len(trees)) == (max_tokens == 20)
        metrics = updater.update(parts)
        assert metrics["update/loss"] == pytest.approx(value, rel=1e-12, abs=1e-12)
        assert largest_difference(gradients(model), expected) < 1e-12
    if not isinstance(loss, REINFORCE):
        assert metrics["clip_ratio/region_mean"] > 0


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_penalties_are_exact_under_packing(estimator: KLEstimator, packing: bool) -> None:
    """KL to a reference and the entropy bonus weigh as much as the loss's tokens, and their gradients are exact."""
    plain, other = (make_tiny_model(dtype=torch.float64, attention="sdpa", seed=seed) for seed in (0, 1))
    trees = random_trees(plain, seed=9, num_trees=3)
    advantages = random_advantages(trees, seed=9)
    losses = []
    for tree, values in zip(trees, advantages, strict=True):
        for leaf, advantage in zip(tree.leaves(), values.tolist(), strict=True):
            every = all_logprobs(plain, tree.ids(leaf).tolist())[len(tree.prompt_ids) - 1 :]
            logprobs = response_logprobs(plain, tree, leaf)
            d = logprobs - response_logprobs(other, tree, leaf).detach()
            kl = {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d}[estimator]
            entropy = -(every.exp() * every).sum(-1)
            losses.append(-advantage * logprobs + 0.3 * kl - 0.2 * entropy)
    trajectory_mean(losses).backward()
    model = make_tiny_model(dtype=torch.float64)
    penalties = Penalties(kl_coef=0.3, kl_estimator=estimator, entropy_coef=0.2)
    updater = updater_of(model, 25, loss=REINFORCE(), aggregation=TrajectoryMean(), penalties=penalties)
    reference = make_tiny_model(dtype=torch.float64, seed=1)
    updater = replace(updater, packing=packing, reference=reference)
    parts = [p for tree, own in zip(trees, advantages, strict=True) for p in updater.pack(tree, own)]
    metrics = updater.update(updater.prepare(parts))
    # The reference's log-probabilities are kept in float64 here, so nothing is rounded.
    assert largest_difference(gradients(model), gradients(plain)) < 1e-12
    assert metrics["update/loss"] == pytest.approx(float(trajectory_mean(losses).detach()), rel=1e-12)
    assert metrics["update/kl_reference"] > 0.01


def test_recomputed_logprobs_take_the_place_of_the_engines() -> None:
    """Whatever the engine reported, the first update is then on policy, and later ones refer to the policy it had."""
    model = make_tiny_model(dtype=torch.float64)
    trees = random_trees(make_tiny_model(dtype=torch.float64, attention="sdpa"), seed=10, num_trees=2)
    updater = replace(
        adam_of(model, OptimSettings(lr=0.01, warmup_steps=0)),
        recompute_old_logprobs=True,
        max_tokens_per_micro_batch=20,
    )
    parts = updater.prepare(
        [p for t, a in zip(trees, random_advantages(trees, 10), strict=True) for p in updater.pack(t, a)]
    )
    first, second = updater.update(parts), updater.update(parts)
    assert first["update/approx_kl"] < 1e-12
    assert second["update/approx_kl"] > 1e-6


def test_on_policy_metrics_are_zero() -> None:
    """Trees sampled by the model itself have ratio 1: nothing is clipped and the KL vanishes."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=3, num_trees=3, noise=0.0)
    metrics = updater_of(make_tiny_model(dtype=torch.float64)).update(
        packed_trees(trees, random_advantages(trees, seed=3))
    )
    assert metrics["clip_ratio/region_mean"] == 0
    assert 0 <= metrics["update/approx_kl"] < 1e-12


def some_packed(model: PreTrainedModel) -> list[PackedTree]:
    """Trees of the model's vocabulary, with advantages."""
    trees = random_trees(make_tiny_model(attention="sdpa"), seed=4, num_trees=3)
    return packed_trees(trees, random_advantages(trees, seed=4))


def test_weights_that_are_not_finite_stop_the_update() -> None:
    """NaN in a weight is an error that carries the batch, and no weight is touched."""
    model = make_tiny_model()
    packed = some_packed(model)
    updater = adam_of(model, OptimSettings(lr=0.1, warmup_steps=0))
    with torch.no_grad():
        next(model.parameters())[3, 0] = math.nan
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(NonFiniteUpdateError, match="loss is not finite") as caught:
        updater.update(packed)
    assert caught.value.batch.packed.num_tokens == sum(tree.num_tokens for tree in packed)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0, equal_nan=True)


def test_gradients_that_are_not_finite_stop_the_update() -> None:
    """A finite loss with an infinite gradient is caught before the optimiser sees it."""
    model = make_tiny_model()
    packed = some_packed(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    updater = adam_of(model, OptimSettings(lr=0.1, warmup_steps=0))
    next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteUpdateError, match="gradient norm is not finite") as caught:
        updater.update(packed)
    assert caught.value.batch.packed.num_tokens == sum(tree.num_tokens for tree in packed)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)


def test_an_infinite_advantage_stops_the_update() -> None:
    """The loss, not only the weights, can be what is not finite."""
    model = make_tiny_model()
    packed = [replace(tree, leaf_advantages=tree.leaf_advantages + math.inf) for tree in some_packed(model)]
    with pytest.raises(NonFiniteUpdateError, match="loss is not finite"):
        updater_of(model).update(packed)


def test_gradients_are_scaled_down_to_the_limit_and_never_up() -> None:
    """Above the limit the gradient keeps its direction and gets the limit's norm; below it stays as it is."""
    model = make_tiny_model(dtype=torch.float64)
    packed = some_packed(model)
    norm = updater_of(model).update(packed)["update/grad_norm"]
    free = gradients(model)
    assert norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in free.values())))
    assert updater_of(model, max_grad_norm=norm / 4).update(packed)["update/grad_norm"] == pytest.approx(norm)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, free[name] / 4, rtol=1e-5, atol=1e-12)
    updater_of(model, max_grad_norm=norm * 4).update(packed)
    assert largest_difference(gradients(model), free) == 0


def test_the_rate_warms_up_linearly_and_stays() -> None:
    """With 4 warm-up steps the rates are 1/4, 2/4, 3/4, 1, 1 of the setting."""
    model = make_tiny_model()
    packed = some_packed(model)
    updater = adam_of(model, OptimSettings(lr=1e-3, warmup_steps=4))
    rates = [updater.update(packed)["update/lr"] for _ in range(6)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_the_first_step_of_adam_has_the_size_of_the_rate() -> None:
    """Adam's first step moves a weight by the rate, whatever its gradient: the warm-up acts from the start."""
    model = make_tiny_model(dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    updater = adam_of(model, OptimSettings(lr=1e-3, warmup_steps=10, weight_decay=0.0))
    updater.update(some_packed(model))
    for name, p in model.named_parameters():
        assert p.grad is not None
        moved = (p.grad.abs() > 1e-4).nonzero(as_tuple=True)
        step = (p.detach() - before[name])[moved]
        torch.testing.assert_close(step, -1e-4 * p.grad[moved].sign(), rtol=2e-4, atol=0)


@pytest.mark.parametrize(
    ("dtype", "lr", "low", "high"),
    [("bfloat16", 1e-6, 0.9, 1.0), ("bfloat16", 0.1, 0.0, 0.1)],
)
def test_steps_that_narrow_weights_cannot_hold_are_counted(dtype: str, lr: float, low: float, high: float) -> None:
    """A learning rate of 1e-6 left nearly all bfloat16 weights as they were, without a word."""
    model = make_tiny_model(dtype=getattr(torch, dtype))
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    metrics = adam_of(model, OptimSettings(lr=lr, warmup_steps=0, weight_decay=0.0)).update(some_packed(model))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert low <= metrics["update/frac_unchanged"] <= high
    grads = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
    expected = (before == after)[grads.abs() > 1e-12].float().mean()
    assert metrics["update/frac_unchanged"] == pytest.approx(float(expected), abs=0.02)


@pytest.mark.parametrize(
    ("settings", "max_grad_norm", "unchanged", "no_gradient"),
    [
        ({}, 1.0, 0.0, 0.0),
        ({"lr": 1e-30}, 1.0, 1.0, 0.0),
        ({"warmup_steps": 10**12}, 1.0, 1.0, 0.0),
        ({}, 1e-30, 0.0, 1.0),
    ],
)
def test_updates_that_change_no_weight_in_float32_are_counted(
    settings: dict, max_grad_norm: float, unchanged: float, no_gradient: float
) -> None:
    """A rate of 1e-30, a warm-up of 10^12 steps, gradients clipped to nothing: such runs ended like any other."""
    model = make_tiny_model()
    updater = adam_of(model, OptimSettings(**({"lr": 1e-3, "warmup_steps": 0} | settings)))
    metrics = replace(updater, max_grad_norm=max_grad_norm).update(some_packed(model))
    assert metrics["update/frac_unchanged"] == pytest.approx(unchanged, abs=0.05)
    assert metrics["update/frac_no_gradient"] == pytest.approx(no_gradient, abs=0.3)


def test_weights_in_float16_are_not_trained() -> None:
    """The first step of Adam divided by second moments that are 0 in float16, and most weights were no number."""
    with pytest.raises(SettingError, match=r"^model\.dtype: weights in float16 cannot be trained"):
        adam_of(make_tiny_model(dtype=torch.float16), OptimSettings(lr=1e-3))


@pytest.mark.parametrize("settings", [{"weight_decay": 1e300}, {"lr": 1e30}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_the_last_update_made_infinite_are_an_error(settings: dict, dtype: torch.dtype) -> None:
    """A weight decay of 1e300 left no finite weight, a rate of 1e30 none to compute with, and the run ended well."""
    model = make_tiny_model(dtype=dtype)
    updater = adam_of(model, OptimSettings(**{"lr": 1e-3, "warmup_steps": 0, **settings}))
    updater.check_weights()
    updater.update(some_packed(model))
    with pytest.raises(FloatingPointError, match="weights are not finite or too large after the update: see optim.lr"):
        updater.check_weights()


def test_updates_raise_what_is_good() -> None:
    """A few updates on the same trees make leaves of positive advantage likelier and the others less likely."""
    model = make_tiny_model()
    plain = make_tiny_model(attention="sdpa")
    trees = random_trees(plain, seed=6, num_trees=2, noise=0.0)
    advantages = [np.where(np.arange(len(t.leaves())) % 2, 1.0, -1.0) for t in trees]

    def gap() -> float:
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            return sum(
                a * float(response_logprobs(plain, tree, leaf).sum())
                for tree, values in zip(trees, advantages, strict=True)
                for leaf, a in zip(tree.leaves(), values, strict=True)
            )

    updater = adam_of(model, OptimSettings(lr=1e-3, warmup_steps=0))
    before = gap()
    for _ in range(5):
        updater.update(packed_trees(trees, advantages))
    assert gap() > before + 0.1


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0.0}, {"lr": -1.0}, {"warmup_steps": -1}, {"betas": (0.9, 1.0)}, {"max_grad_norm": 0.0}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    """Each is named."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimSettings(**wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("lr", [0.0, -1.0, 1e38, math.inf, math.nan])
def test_rates_that_no_step_can_have_are_refused(lr: float) -> None:
    """A rate of 1e38 ended in an error of torch in the first update, and one that is no number was taken."""
    with pytest.raises(SettingError, match="^lr: must be (positive|at most 1e[+]30)"):
        OptimSettings(lr=lr)

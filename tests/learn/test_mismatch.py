"""What an engine samples from another distribution than the trainer's: measured, and made up for."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.learn.reference import (
    Formula,
    case_id,
    cispo,
    ppo,
    random_advantages,
    random_trees,
    reinforce,
    response_logprobs,
    token_mean,
)
from tests.learn.test_update import ALL_TOKENS, gradients, largest_difference, packed_trees, updater_of
from tests.models import make_tiny_model
from treepo.config.load import resolve
from treepo.learn.losses import CISPO, GSPO, PPO, REINFORCE, Loss
from treepo.learn.metrics import mismatch_metrics
from treepo.learn.packing import pack


def gspo_token(low: float, high: float) -> Formula:
    """GSPO with a weight per token needs the form whose ratio has the value of the sequence's and the gradient of the
    token's own (arXiv 2507.18071, eq. 13-14)."""

    def formula(logprobs: Tensor, sampled: Tensor, advantage: float) -> Tensor:
        ratio = torch.exp((logprobs - sampled).mean()).detach() * torch.exp(logprobs - logprobs.detach())
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)

    return formula


LOSSES: list[tuple[Loss, Formula]] = [
    (PPO(0.1, 0.3), ppo(0.1, 0.3)),
    (PPO(0.2, 0.28, dual_clip=1.3), ppo(0.2, 0.28, 1.3)),
    (GSPO(0.02, 0.03), gspo_token(0.02, 0.03)),
    (CISPO(max_weight=1.2, min_weight=0.7), cispo(0.7, 1.2)),
    (REINFORCE(), reinforce()),
]


def nearby(kind: str = "qwen2", attention: str = "treepo") -> PreTrainedModel:
    """The policy after some updates."""
    model = make_tiny_model(kind, dtype=torch.float64, attention=attention)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.mark.parametrize("bound", [None, 0.8, 1.2, 1e9])
@pytest.mark.parametrize(("loss", "formula"), LOSSES, ids=case_id)
def test_importance_weights_are_exact_under_packing(loss: Loss, formula: Formula, bound: float | None) -> None:
    """Each token of each trajectory counts min(p / q, bound), p of the policy before the update and q of the engine;
    ratios are those to that policy. Value and gradients to 1e-12, whole and in parts."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=8, num_trees=3)
    advantages = random_advantages(trees, seed=8)
    after = nearby(attention="sdpa")
    losses = []
    for tree, values in zip(trees, advantages, strict=True):
        for leaf, advantage in zip(tree.leaves(), values.tolist(), strict=True):
            with torch.no_grad():
                rescored = response_logprobs(plain, tree, leaf)
            sampled = torch.from_numpy(tree.trajectory(leaf).sampled_logprobs).double()
            weights = torch.exp(rescored - sampled).clamp(max=bound) if bound else torch.ones_like(sampled)
            losses.append(weights * formula(response_logprobs(after, tree, leaf), rescored, advantage))
    value = token_mean(losses)
    value.backward()
    for max_tokens in (ALL_TOKENS, 20):
        model = make_tiny_model(dtype=torch.float64)
        updater = replace(updater_of(model, max_tokens, loss=loss), recompute_old_logprobs=True, importance_cap=bound)
        prepared = updater.prepare([p for t, own in zip(trees, advantages, strict=True) for p in updater.pack(t, own)])
        model.load_state_dict(after.state_dict())
        metrics = updater.update(prepared)
        assert metrics["update/loss"] == pytest.approx(float(value.detach()), rel=1e-12, abs=1e-12)
        assert largest_difference(gradients(model), gradients(after)) < 1e-12


def test_importance_weights_remove_the_bias_of_another_sampler() -> None:
    """Tokens drawn from q and weighted by p / q have the mean policy gradient of tokens drawn from p: exactly, by
    enumeration of a one-token response; without weights they have another."""
    policy, sampler = (make_tiny_model(dtype=torch.float64, seed=seed, initializer_range=0.3) for seed in (0, 1))
    prompt, rewards = torch.tensor([[1, 5, 9]]), torch.linspace(-1, 1, 16, dtype=torch.float64)
    logp, logq = (make_plain(model)(input_ids=prompt).logits[0, -1].log_softmax(-1) for model in (policy, sampler))
    wanted = torch.autograd.grad((logp.exp() * rewards).sum(), logp, retain_graph=True)[0]

    def mean_gradient(weigh: Callable[[Tensor], Tensor]) -> Tensor:
        weights = weigh(torch.exp(logp - logq).detach())
        return torch.autograd.grad((logq.exp().detach() * weights * rewards * logp).sum(), logp, retain_graph=True)[0]

    assert torch.allclose(mean_gradient(lambda ratio: ratio), wanted, atol=1e-12)
    assert not torch.allclose(mean_gradient(torch.ones_like), wanted, atol=1e-2)
    truncated = (mean_gradient(lambda ratio: ratio.clamp(max=1.5)) - wanted).norm()
    assert 0 < truncated < (mean_gradient(torch.ones_like) - wanted).norm()


def make_plain(model: PreTrainedModel) -> PreTrainedModel:
    """With transformers' own attention."""
    model.set_attn_implementation("sdpa")
    return model


@pytest.mark.parametrize("recompute_old_logprobs", [False, True])
def test_the_mismatch_is_that_of_the_sampled_tokens(recompute_old_logprobs: bool) -> None:
    """Mean and largest distance of log-probabilities and the KL estimate, over what was sampled, each token once;
    whether the trainer rescores or not, and in parts too where no token is in two."""
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    trees = random_trees(plain, seed=4, num_trees=4, noise=0.1)
    gaps = []
    for tree in trees:
        scored: dict[int, np.ndarray] = {}
        for leaf in tree.leaves():
            with torch.no_grad():
                own = response_logprobs(plain, tree, leaf).numpy()
            sampled = tree.trajectory(leaf).sampled_logprobs
            start = 0
            for node in tree.path(leaf)[1:]:
                end = start + len(tree.nodes[node].token_ids)
                scored[node] = own[start:end] - sampled[start:end]
                start = end
        gaps += list(scored.values())
    every = np.concatenate(gaps)
    for max_tokens in (ALL_TOKENS, 40):
        model = make_tiny_model(dtype=torch.float64)
        updater = replace(updater_of(model, max_tokens), recompute_old_logprobs=recompute_old_logprobs)
        packed = updater.prepare(packed_trees(trees, random_advantages(trees, seed=4)))
        metrics = updater.update(packed)
        assert metrics["mismatch/mean"] == pytest.approx(np.abs(every).mean(), rel=1e-9)
        assert metrics["mismatch/max"] == pytest.approx(np.abs(every).max(), rel=1e-9)
        assert metrics["mismatch/kl"] == pytest.approx((np.exp(every) - 1 - every).mean(), rel=1e-9)


def test_the_kl_estimate_is_unbiased() -> None:
    """Its mean over what the engine samples is KL(engine | policy), by enumeration."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(50)), rng.dirichlet(np.ones(50))
    each = [mismatch_metrics(np.array([gap]))["mismatch/kl"] for gap in np.log(p / q)]
    assert np.dot(q, each) == pytest.approx(np.dot(q, np.log(q / p)), rel=1e-9)


def test_a_ratio_beyond_all_numbers_is_bounded() -> None:
    """A token that the engine found impossible and the policy certain counts the bound, not infinity."""
    tree = random_trees(make_tiny_model(attention="sdpa"), seed=4, num_trees=1)[0]
    model = make_tiny_model()
    updater = replace(updater_of(model), recompute_old_logprobs=True, importance_cap=2.0)
    packed = pack(tree, np.ones(len(tree.leaves())))
    extreme = replace(packed, sampled_logprobs=np.full_like(packed.sampled_logprobs, -1e5))
    metrics = updater.update(updater.prepare([extreme]))
    assert metrics["update/loss"] == pytest.approx(-2.0, rel=1e-5)
    assert math.isinf(metrics["mismatch/kl"])


def test_a_cap_needs_recomputed_logprobs() -> None:
    """Without the trainer's own log-probabilities there is nothing to weigh by."""
    with pytest.raises(ValueError, match=r"train\.importance_cap: needs recompute_old_logprobs = true, got 2.0"):
        resolve({"train": {"importance_cap": 2.0}})
    assert resolve({"train": {"importance_cap": 2.0, "recompute_old_logprobs": True}}).train.importance_cap == 2.0

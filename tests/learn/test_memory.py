"""What an update does when memory runs out, and what is said of memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.learn.reference import random_advantages, random_trees
from tests.learn.test_trainer import Alternating, make_trainer
from tests.learn.test_update import adam_of, gradients, largest_difference, updater_of
from tests.models import make_tiny_model
from treepo.engine.torch.kv_cache import BLOCK, bytes_per_token
from treepo.learn.losses import GSPO, PPO, Loss
from treepo.learn.metrics import memory_metrics
from treepo.learn.packing import PackedTree
from treepo.learn.scoring import Scorer, Scores, TreeBatch
from treepo.learn.settings import OptimSettings
from treepo.learn.updater import Updater
from treepo.tree import Tree

CUDA_MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ..."


@dataclass(frozen=True)
class CrampedScorer(Scorer):
    """Memory runs out in a forward of more than `room` tokens; `sizes` are those that it was asked for."""

    room: int = 10**6
    sizes: list[int] = field(default_factory=list)

    def __call__(self, batch: TreeBatch, entropy_has_grad: bool = False) -> Scores:
        """Of a batch that fits."""
        self.sizes.append(batch.packed.num_tokens)
        if batch.packed.num_tokens > self.room:
            raise torch.OutOfMemoryError(CUDA_MESSAGE)
        return super().__call__(batch, entropy_has_grad)


@dataclass(frozen=True)
class UnluckyScorer(CrampedScorer):
    """Memory runs out in the call of that number, whatever it is asked for, after others have left gradients."""

    call: int = 2

    def __call__(self, batch: TreeBatch, entropy_has_grad: bool = False) -> Scores:
        """All others succeed."""
        scores = super().__call__(batch, entropy_has_grad)
        if len(self.sizes) == self.call:
            raise torch.OutOfMemoryError(CUDA_MESSAGE)
        return scores


def wide_model() -> PreTrainedModel:
    return make_tiny_model(dtype=torch.float64)


def grown(seed: int = 8, num_trees: int = 4) -> tuple[list[Tree], list[np.ndarray]]:
    trees = random_trees(make_tiny_model(dtype=torch.float64, attention="sdpa"), seed, num_trees)
    return trees, random_advantages(trees, seed)


def packed_by(updater: Updater, trees: Sequence[Tree], advantages: Sequence[np.ndarray]) -> list[PackedTree]:
    return [part for tree, own in zip(trees, advantages, strict=True) for part in updater.pack(tree, own)]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("loss", [PPO(), GSPO(0.02, 0.03)], ids=repr)
@pytest.mark.parametrize("make_scorer", [lambda m: CrampedScorer(m, room=40), UnluckyScorer], ids=["room", "call"])
def test_the_update_is_that_of_the_smaller_micro_batch(
    make_scorer: Callable[[PreTrainedModel], CrampedScorer], loss: Loss, packing: bool
) -> None:
    """Gradients agree to 1e-12 and metrics too, whether memory ran out at once or after other micro-batches, and trees
    that were packed whole are cut."""
    model, other = wide_model(), wide_model()
    scorer = make_scorer(model)
    updater = replace(updater_of(model, 80, scorer=scorer, loss=loss), packing=packing)
    parts = packed_by(updater, *grown())
    metrics = updater.update(parts)
    longest = max(part.max_trajectory_len for part in parts)
    assert updater.memory_limit.num_oom >= 1
    assert updater.max_tokens == max(80 >> updater.memory_limit.num_oom, longest)
    assert max(scorer.sizes) > updater.max_tokens >= max(scorer.sizes[-2:])
    expected = replace(updater_of(other, updater.max_tokens, loss=loss), packing=packing)
    small = packed_by(expected, *grown())
    expected_metrics = expected.update(small)
    assert metrics["update/loss"] == pytest.approx(expected_metrics["update/loss"], rel=1e-12, abs=1e-12)
    assert metrics["update/grad_norm"] == pytest.approx(expected_metrics["update/grad_norm"], rel=1e-12)
    assert largest_difference(gradients(model), gradients(other)) < 1e-12


def test_nothing_is_applied_twice() -> None:
    """Two updates with Adam move weights and rate exactly as they do at the smaller micro-batch, bit for bit; what was
    learnt in the first holds for trees that were packed before it."""
    model, other = make_tiny_model(), make_tiny_model()
    settings = OptimSettings(lr=0.01, warmup_steps=4)
    cramped = replace(adam_of(model, settings), scorer=CrampedScorer(model, room=40), max_tokens_per_micro_batch=80)
    small = replace(adam_of(other, settings), max_tokens_per_micro_batch=40)
    whole, parts = packed_by(cramped, *grown()), packed_by(small, *grown())
    assert len(whole) < len(parts)
    for _ in range(2):
        metrics, expected = cramped.update(whole), small.update(parts)
        assert metrics == expected
    assert cramped.memory_limit.num_oom == 1
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_memory_that_runs_out_in_the_backward_pass() -> None:
    """PyTorch's allocator for the CPU says so with a RuntimeError; gradients left by then are not counted twice."""
    model, other = wide_model(), wide_model()
    updater = updater_of(model, 60)
    parts = packed_by(updater, *grown())
    calls = []

    def fail_once(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(gradient)
        return torch.empty(1 << 60, dtype=torch.uint8) if len(calls) == 2 else gradient

    next(model.parameters()).register_hook(fail_once)
    updater.update(parts)
    assert updater.memory_limit.num_oom == 1
    updater_of(other, 60).update(parts)
    assert largest_difference(gradients(model), gradients(other)) < 1e-12


def test_what_is_known_before_the_first_update_is_found_in_parts() -> None:
    """The policy's own log-probabilities and the reference's, of trees that have to be cut for them."""
    model, reference = wide_model(), make_tiny_model(dtype=torch.float64, seed=1)
    scorer = CrampedScorer(model, room=30)
    cramped = replace(updater_of(model, 120, scorer=scorer), recompute_old_logprobs=True, reference=reference)
    prepared = cramped.prepare(packed_by(cramped, *grown()))
    small = replace(updater_of(model, cramped.max_tokens), recompute_old_logprobs=True, reference=reference)
    expected = small.prepare(packed_by(small, *grown()))
    assert cramped.memory_limit.num_oom == 2 and len(prepared) == len(expected) > 4
    for one, other in zip(prepared, expected, strict=True):
        np.testing.assert_allclose(one.recomputed_logprobs, other.recomputed_logprobs, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.ref_logprobs, other.ref_logprobs, rtol=0, atol=1e-12)
        assert len(one.ref_logprobs) == len(one.targets)


def test_below_the_longest_trajectory_it_fails_and_says_what_to_change() -> None:
    """In one line; no weight has changed."""
    model = make_tiny_model()
    updater = replace(
        adam_of(model, OptimSettings()), scorer=CrampedScorer(model, room=3), max_tokens_per_micro_batch=50
    )
    before = [p.detach().clone() for p in model.parameters()]
    parts = packed_by(updater, *grown())
    longest = max(part.max_trajectory_len for part in parts)
    with pytest.raises(MemoryError) as caught:
        updater.update(parts)
    message = str(caught.value)
    assert message.startswith(
        f"train.max_tokens_per_micro_batch: out of memory at {longest} tokens, and the longest trajectory"
    )
    assert "\n" not in message and "Tried to allocate 2.00 GiB" in message
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_the_optimisers_own_step_is_not_begun_again() -> None:
    """Half of its weights may have moved."""
    model = make_tiny_model()
    updater = adam_of(model, OptimSettings())
    updater.optimizer.register_step_pre_hook(lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(MemoryError, match=r"optim: no memory for the optimizer's state; .*lora\.rank"):
        updater.update(packed_by(updater, *grown()))
    assert updater.memory_limit.num_oom == 0


def test_other_errors_are_not_taken_for_it() -> None:
    """They leave the update at once."""
    model = make_tiny_model()
    updater = updater_of(model)
    next(model.parameters()).register_hook(lambda gradient: gradient[:1])
    with pytest.raises(RuntimeError, match="size"):
        updater.update(packed_by(updater, *grown()))
    assert updater.memory_limit.num_oom == 0


def test_sizes_are_those_of_the_tensors() -> None:
    """Adam keeps two numbers per weight, and a count per tensor."""
    model = make_tiny_model()
    updater = adam_of(model, OptimSettings())
    weights = 4 * sum(p.numel() for p in model.parameters())
    before = memory_metrics(model, updater.optimizer)
    assert (before["memory/weights"], before["memory/gradients"], before["memory/optimizer"]) == (weights, 0, 0)
    updater.update(packed_by(updater, *grown()))
    after = memory_metrics(model, updater.optimizer)
    assert after["memory/gradients"] == weights
    assert after["memory/optimizer"] == 2 * weights + 4 * len(list(model.parameters()))
    # No Python with PyTorch takes less than 50 MB, and nothing here more than 50 GB.
    assert 50e6 < after["memory/peak_bytes"] < 50e9


def test_a_step_reports_memory_and_what_ran_out() -> None:
    """The embedded engine's keys and values as they were before it rested; the count is that of the step."""
    trainer = make_trainer(Alternating(), num_mini_batches=1, prompts_per_step=2)
    parts = {f.name: getattr(trainer.updater, f.name) for f in fields(Updater)}
    updater = Updater(**parts | {"scorer": CrampedScorer(trainer.policy.model, room=60)})
    trainer = replace(trainer, updater=updater)
    first, second = (trainer.step(step).metrics for step in (1, 2))
    assert first["update/num_oom"] >= 1 > second["update/num_oom"]
    assert (
        first["update/max_tokens_per_micro_batch"]
        == second["update/max_tokens_per_micro_batch"]
        == updater.max_tokens
        < 200
    )
    assert first["memory/engine_cache"] > 0
    assert first["memory/engine_cache"] % (BLOCK * bytes_per_token(trainer.policy.model, torch.float32)) == 0
    assert trainer.engine.cache_bytes == 0

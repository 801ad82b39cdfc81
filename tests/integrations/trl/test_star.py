"""A tree that forks at the prompt alone is TRL's GRPO: the same losses, gradients and metrics on the same samples."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer

from tests.integrations.trl.trainers import STAR, assert_same_training, config, recording, train, weights
from tests.models import save_tiny_model
from treepo.integrations.trl import PackedGRPOTrainer, TreeGRPOTrainer

pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")

CASES: dict[str, dict[str, Any]] = {
    "on policy": {},
    "beta, two iterations, accumulation": {"beta": 0.1, "num_iterations": 2, "gradient_accumulation_steps": 2},
    "generation at every step of an accumulation": {"gradient_accumulation_steps": 2, "steps_per_generation": 1},
    "several updates from a generation": {"steps_per_generation": 2, "max_steps": 4, "beta": 0.1},
    "sequence ratios": {"importance_sampling_level": "sequence", "num_iterations": 2},
    "entropy and masks": {"entropy_coef": 0.1, "top_entropy_quantile": 0.5, "mask_truncated_completions": True},
    "off-policy mask, two-sided clipping": {"off_policy_mask_threshold": 0.5, "delta": 2.0, "num_iterations": 2},
}


def check(folder, model, given=(), **settings):
    """Compare TRL's trainer with both of ours on the samples of a star; return them. given: more of their arguments."""
    tree = train(recording(TreeGRPOTrainer), model, config(folder, **STAR, **settings), **dict(given))
    plain = [
        train(recording(kind, tree.samples), model, config(folder, **settings), **dict(given))
        for kind in (GRPOTrainer, PackedGRPOTrainer)
    ]
    for trainer in plain:
        assert_same_training(tree, trainer)
    assert tree.num_forwarded < tree.num_padded
    return tree, *plain


@pytest.fixture
def unshuffled(monkeypatch):
    """Let TRL keep the rows in order, so that its micro-batches are ours, with siblings side by side."""
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda rows: rows)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss(loss_type, tmp_path, tiny_llama, unshuffled):
    check(tmp_path, tiny_llama, **CASES["beta, two iterations, accumulation"], loss_type=loss_type)


@pytest.mark.parametrize("case", CASES)
def test_every_schedule(case, tmp_path, tiny_llama, unshuffled):
    check(tmp_path, tiny_llama, **CASES[case])


@pytest.mark.parametrize("loss_type", [loss for loss in LOSSES if loss != "bnpo"])
def test_siblings_that_meet_again_change_no_update(loss_type, tmp_path, tiny_llama):
    """TRL shuffles rows over the micro-batches of an update; ours go back to their siblings, and the sums of losses and
    gradients stay (but for bnpo, which divides by the tokens of a micro-batch)."""
    settings = {"gradient_accumulation_steps": 2, "loss_type": loss_type, "max_steps": 2}
    tree = train(recording(TreeGRPOTrainer), tiny_llama, config(tmp_path, **STAR, **settings))
    plain = train(recording(GRPOTrainer, tree.samples), tiny_llama, config(tmp_path, **settings))
    ours, theirs = (np.array(trainer.losses).reshape(2, 2) for trainer in (tree, plain))
    assert not np.allclose(ours, theirs, rtol=0.01)
    np.testing.assert_allclose(ours.sum(1), theirs.sum(1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weights(tree), weights(plain), rtol=1e-4, atol=2e-5)


def test_lora(tmp_path, tiny_llama, unshuffled):
    """Its reference is the model without the adapter, which alone is trained and saved."""
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    settings = {"beta": 0.1, "num_iterations": 2, "learning_rate": 0.5, "save_strategy": "steps", "save_steps": 2}
    for trainer in check(tmp_path, tiny_llama, {"peft_config": lora}, **settings):
        names = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert names and all("lora" in name for name in names)
    assert (tmp_path / "out" / "checkpoint-2" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma3"])
@pytest.mark.parametrize("gradient_checkpointing", [True, False])
def test_other_models(kind, gradient_checkpointing, tmp_path, unshuffled):
    """Also those with sliding windows; a checkpointed layer is run again in the backward pass."""
    model = save_tiny_model(tmp_path / kind, kind)
    check(tmp_path, model, gradient_checkpointing=gradient_checkpointing, temperature=0.7, beta=0.1)


def test_weights_move_and_samples_are_new(tmp_path, tiny_llama):
    """What the other tests compare is not nothing."""
    trainer = train(recording(TreeGRPOTrainer), tiny_llama, config(tmp_path, **STAR, max_steps=1))
    other = train(recording(TreeGRPOTrainer), tiny_llama, config(tmp_path, **STAR, learning_rate=0.0, seed=1))
    assert (weights(trainer) - weights(other)).abs().max() > 1e-3
    assert other.samples[0] != other.samples[1]
    assert other.samples[0] != trainer.samples[0]

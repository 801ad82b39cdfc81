"""Trees below the prompt inside TRL's trainer: what is learned from them, evaluations, LoRA, checkpoints, callbacks."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOTrainer

from tests.integrations.trl.trainers import (
    assert_same_training,
    config,
    dataset,
    distinct_characters,
    recording,
    train,
    weights,
)
from tests.models import save_tiny_model
from treepo.credit import SPO, REINFORCEPlusPlus, TreePO, TreeRL
from treepo.integrations.trl import TreeGRPOTrainer
from treepo.learn.advantages import compute_advantages

pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]

DEEP = {"tree_depth": 4, "stopping": {"repetition": "never"}}


class Kept(TreeGRPOTrainer):
    """Keeps what each generation gave."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.rewards: list[np.ndarray] = []
        self.all_trees: list[Any] = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        self.outputs.append(dict(output))
        self.rewards.append(self._rewards.sum(1).double().numpy())
        self.all_trees.append(self.trees)
        return output


def replaying(outputs: list[dict[str, Any]]) -> type[GRPOTrainer]:
    """TRL's trainer with the advantages of an earlier run."""

    class Replaying(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            output["advantages"] = outputs[len(self.samples) - 1]["advantages"]
            return output

    return Replaying


@pytest.mark.parametrize("estimator", [TreePO(), SPO(), TreeRL(), REINFORCEPlusPlus()], ids=lambda e: type(e).__name__)
def test_trees_are_learned_as_trl_learns_their_rows(estimator, tmp_path, tiny_llama, monkeypatch):
    """Packed, each token once, the loss and gradient are those of TRL's padded forward with the same advantages."""
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda rows: rows)
    settings: dict[str, Any] = {"beta": 0.1, "num_iterations": 2, "gradient_accumulation_steps": 2}
    tree = train(recording(Kept), tiny_llama, config(tmp_path, **DEEP, estimator=estimator, **settings))
    plain = train(recording(replaying(tree.outputs), tree.samples), tiny_llama, config(tmp_path, **settings))
    logged = tree.state.log_history[0]
    assert logged["trees/decoded_tokens"] < logged["trees/completion_tokens"]
    for history in (tree.state.log_history, plain.state.log_history):
        for entry in history:
            for name in [name for name in entry if name.startswith("trees/")]:
                del entry[name]
    assert_same_training(tree, plain)
    assert tree.num_forwarded < 0.8 * tree.num_padded


@pytest.mark.parametrize("estimator", [TreePO(), SPO(), REINFORCEPlusPlus()], ids=lambda e: type(e).__name__)
def test_advantages_are_the_estimators_own(estimator, tmp_path, tiny_llama):
    trainer = train(recording(Kept), tiny_llama, config(tmp_path, **DEEP, estimator=estimator, max_steps=1))
    output, trees = trainer.outputs[0], trainer.all_trees[0]
    found = compute_advantages(trees, list(trainer.rewards[0].reshape(len(trees), -1)), estimator).by_tree
    row = 0
    for tree, advantages in zip(trees, found, strict=True):
        for leaf, path in enumerate(tree.trajectories()):
            ours = output["advantages"][row]
            if estimator.per_node:
                expected = [advantages.values[i] for i in path.nodes for _ in tree.nodes[i].token_ids]
                assert ours[: len(expected)].tolist() == pytest.approx(expected)
                assert not ours[len(expected) :].any()
            else:
                assert float(ours) == pytest.approx(advantages.values[leaf])
            assert output["completion_ids"][row][: len(path.token_ids)].tolist() == path.token_ids.tolist()
            row += 1
    assert row == len(output["completion_ids"])


def test_rewards_that_are_missing_and_completions_that_are_cut_off(tmp_path, tiny_llama):
    """A completion without a reward has advantage 0, and the others are compared with each other alone."""

    def odd(completions: list[str], **_: Any) -> list[float | None]:
        return [None if i % 4 == 1 else float(i % 4) for i in range(len(completions))]

    args = config(tmp_path, **DEEP, estimator="GRPO", max_steps=1, mask_truncated_completions=True)
    trainer = train(recording(Kept), tiny_llama, args, reward_funcs=odd)
    advantages = trainer.outputs[0]["advantages"].reshape(-1, 4)
    expected = np.array([0.0, 2.0, 3.0])
    expected = (expected - expected.mean()) / (expected.std(ddof=1) + 1e-6)
    np.testing.assert_allclose(advantages, [[expected[0], 0, *expected[1:]]] * 2, rtol=1e-5)


def test_evaluations_sample_independently_as_often_as_trl_does(tmp_path, tiny_llama):
    args = config(
        tmp_path, **DEEP, max_steps=1, eval_strategy="steps", eval_steps=1, num_generations_eval=2, log_completions=True
    )
    args.per_device_eval_batch_size = 4
    trainer = train(recording(Kept), tiny_llama, args, eval_dataset=dataset().select(range(3)))
    evaluations = [trees for trees in trainer.all_trees if len(trees[0].leaves()) == 2]
    assert [len(trees) for trees in evaluations] == [2, 1]
    assert all(len(tree.children()[0]) == 2 for trees in evaluations for tree in trees)
    assert {"eval_loss", "eval_reward"} <= trainer.state.log_history[1].keys()
    logged = list(trainer._logs["advantages"])
    assert logged[-2:] == pytest.approx(trainer.outputs[-1]["advantages"].tolist())


def test_a_run_goes_on_from_trls_checkpoint(tmp_path, tiny_llama):
    """With the same trees as if it had not stopped; its files hold nothing of ours."""
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = train(recording(TreeGRPOTrainer), tiny_llama, config(tmp_path, **DEEP, **settings))
    checkpoint = tmp_path / "out" / "checkpoint-2"
    trainer = recording(TreeGRPOTrainer)(
        str(tiny_llama),
        distinct_characters,
        args=config(tmp_path, **DEEP, **settings),
        train_dataset=dataset(),
    )
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.samples == whole.samples[2:]
    torch.testing.assert_close(weights(trainer), weights(whole), rtol=0, atol=1e-6)
    assert "treepo" not in (checkpoint / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config._attn_implementation == "sdpa"


class Generating(TrainerCallback):
    """Generates in the middle of training, as callbacks that log completions do."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        ids = torch.tensor([[0, 0, 1, 7, 9], [1, 7, 9, 11, 30]])
        found = model.generate(ids, attention_mask=(ids != 0).int(), max_new_tokens=6, do_sample=False)
        self.found.append(found[:, 5:])


def test_a_callback_generates_with_the_model_as_ever(tmp_path, tiny_llama):
    """The attention of packed forwards does not reach a padded batch."""
    callback = Generating()
    # With checkpointing transformers generates without its cache, and other tokens.
    args = config(tmp_path, **DEEP, max_steps=1, gradient_checkpointing=False)
    trainer = train(TreeGRPOTrainer, tiny_llama, args, callbacks=[callback])
    trainer.save_model(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    plain.generation_config.pad_token_id = 0
    again = Generating()
    again.on_step_end(None, None, None, model=plain)
    assert torch.equal(callback.found[0], again.found[0])


def test_prompts_that_are_conversations(tmp_path):
    model = save_tiny_model(tmp_path / "chat", "qwen2", chat=True)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{i}+{i}"}]} for i in range(8)])
    trainer = train(recording(Kept), model, config(tmp_path, **DEEP, max_steps=1), train_dataset=rows)
    assert trainer.all_trees[0][0].prompt_ids.tolist()[0] == trainer._tokenizer.convert_tokens_to_ids("<user>")
    assert len({float(reward) for reward in trainer.rewards[0]}) > 1


def test_what_is_logged_about_a_run_can_be_written(tmp_path, tiny_llama):
    """Trackers are told all settings as JSON."""
    args = config(tmp_path, estimator=SPO(), fallback={"use": "Backtrack", "order": "all"}, branching="EvenBranching")
    told = json.loads(args.to_json_string())
    assert told["estimator"]["use"] == "SPO"
    assert told["fallback"] == {"use": "Backtrack", "order": "all"}
    assert told["branching"] == "EvenBranching"

"""What a run does when things go wrong, and that it learns."""

from dataclasses import dataclass, replace

import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM

from tests.models import make_tiny_model
from tests.parts import prepare
from treepo.config.load import resolve
from treepo.data.problem import Outcome, Verdict
from treepo.learn.loss_inputs import LossInputs
from treepo.learn.losses import PPO
from treepo.report.terminal import Terminal
from treepo.run.build import Run
from treepo.run.train import train
from treepo.tasks.chain_sums import make_chain_tokenizer

QUIET = Terminal(Console(quiet=True))


@dataclass(frozen=True)
class BrokenLoss(PPO):
    """Not a number."""

    def __call__(self, inputs: LossInputs) -> Tensor:
        return inputs.policy_logprobs.sum() * float("nan")


def settings(model, **sections):
    small = {"num_steps": 1, "prompts_per_step": 8}
    base = {"tree": {"segment_len": 16}, "train": small, "eval": {"num_problems": 0}}
    return resolve(base, {"model": {"path": str(model)}}, sections)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(chain_model, tmp_path):
    run = prepare(settings(chain_model), tmp_path / "out", QUIET)
    before = {name: weight.clone() for name, weight in run.policy.model.state_dict().items()}
    trainer = replace(run.trainer, updater=replace(run.trainer.updater, loss=BrokenLoss()))
    # Untrained answers are all wrong and would be dropped: let every other one be right.
    rewards = iter([0.0, 1.0] * 1000)
    trainer = replace(trainer, task=replace_reward(trainer.task, lambda *_: next(rewards)))
    with pytest.raises(FloatingPointError, match=r"step 1: loss is not finite; its batch is kept in .*step-000001"):
        train(replace(run, trainer=trainer), tmp_path / "out", QUIET)
    batch = load_file(tmp_path / "out" / "failed-step-000001.safetensors")
    assert len(batch["token_ids"]) == batch["offsets"][-1] > 0
    assert all(torch.equal(before[name], weight) for name, weight in run.policy.model.state_dict().items())


def test_weights_that_are_not_finite_stop_the_run(chain_model, tmp_path):
    """Sampling from NaN logits would return some token, and all-wrong answers would hide it for good."""
    run = prepare(settings(chain_model), tmp_path / "out", QUIET)
    next(run.policy.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        train(run, tmp_path / "out", QUIET)


def test_reward_rises(chain_model, tmp_path):
    """The policy learns to begin its answers with one of four labels that it seldom begins with."""
    config = settings(
        chain_model,
        tree={"width": 8, "depth": 2, "segment_len": 2},
        train={"num_steps": 12, "prompts_per_step": 16},
        optim={"lr": 3e-3, "warmup_steps": 1, "weight_decay": 0.0},
    )
    run = prepare(config, tmp_path / "out", QUIET)
    task = replace_reward(run.task, lambda _, response: float(response[:1] in "bdfh"))
    trainer = replace(run.trainer, task=task)
    rewards = [trainer.step(step).metrics["reward/mean"] for step in range(1, 13)]
    assert rewards[0] < 0.5
    assert rewards[-1] > 0.9


def test_a_model_without_an_end_of_sequence_token_is_said_at_the_start(chain_model, tmp_path, caplog):
    """Every answer of such a model ran to its longest, without a word of the cause."""
    prepare(settings(chain_model), tmp_path / "other", QUIET).close()
    assert "end-of-sequence" not in caplog.text
    tokenizer = make_chain_tokenizer()
    tokenizer.eos_token = None
    model = make_tiny_model(vocab_size=len(tokenizer), eos_token_id=None)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    prepare(settings(tmp_path / "model"), tmp_path / "out", QUIET).close()
    (line,) = [r.getMessage() for r in caplog.records if "end-of-sequence" in r.getMessage()]
    assert "see eos_token_id of generation_config.json" in line and 'stopping.answer = "answer"' in line


def test_a_model_that_cannot_be_packed_is_trained_all_the_same(tmp_path, caplog):
    """Its trajectories are sampled by the plain engine and trained one by one, and the run says so."""
    tokenizer = make_chain_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, eos_token_id=2)
        MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    run = prepare(settings(tmp_path / "mamba", tree={"depth": 2, "segment_len": 8}), tmp_path / "out", QUIET)
    assert "nothing is shared" in caplog.text
    before = {name: weight.clone() for name, weight in run.policy.model.state_dict().items()}
    rewards = iter([0.0, 1.0] * 1000)
    trainer = replace(run.trainer, task=replace_reward(run.task, lambda *_: next(rewards)))
    metrics = trainer.step(1).metrics
    assert metrics["tokens/forwarded"] == metrics["tokens/unpacked"] > 0
    # The first of two updates is on policy, the second nearly.
    assert metrics["update/approx_kl"] < 1e-4
    assert any(not torch.equal(before[name], weight) for name, weight in run.policy.model.state_dict().items())


@pytest.mark.parametrize(
    "sections",
    [
        {
            "lora": {"rank": 2},
            "penalties": {"kl_coef": 0.1},
            "train": {"gradient_checkpointing": True, "num_iterations": 2},
        },
        {
            "penalties": {"kl_coef": 0.1, "entropy_coef": 0.01},
            "train": {"autocast": "bfloat16", "recompute_old_logprobs": True},
        },
        {
            "loss": {"use": "GSPO"},
            "train": {"packing": False, "gradient_checkpointing": True, "max_tokens_per_micro_batch": 64},
        },
        {"loss": {"use": "CISPO"}, "aggregation": {"use": "ConstantLength", "length": 32}},
    ],
    ids=str,
)
def test_settings_of_the_update_go_together(chain_model, tmp_path, sections):
    """A step with each trains what is to be trained, stays near its reference and keeps what is to be kept."""
    small = {"num_steps": 1, "prompts_per_step": 4, "num_mini_batches": 1}
    merged = sections | {"train": small | sections.get("train", {}), "tree": {"depth": 2, "segment_len": 8}}
    run = prepare(settings(chain_model, **merged), tmp_path / "out", QUIET)
    rewards = iter([0.0, 1.0] * 1000)
    trainer = replace(run.trainer, task=replace_reward(run.task, lambda *_: next(rewards)))
    before = {n: p.detach().clone() for n, p in run.policy.model.named_parameters()}
    train(replace(run, trainer=trainer), tmp_path / "out", QUIET)
    moved = {n for n, p in run.policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    if "lora" in sections:
        assert all("lora_" in name for name in moved)
        assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_the_best_model_is_kept(chain_model, tmp_path, monkeypatch):
    """That of the first of three steps, which scored highest; the last one's is in model/ as always."""
    rewards = iter([0.0, 1.0] * 1000)

    def trained(out, num_steps, scores):
        small = {"num_steps": num_steps, "prompts_per_step": 4}
        sections = {"train": small, "eval": {"every": 1, "keep_best": True}, "optim": {"lr": 1e-3}}
        run = prepare(settings(chain_model, **sections), out, QUIET)
        run = replace(run, trainer=replace(run.trainer, task=replace_reward(run.task, lambda *_: next(rewards))))
        left = iter(scores)
        monkeypatch.setattr(Run, "evaluate", lambda *_: {"eval/avg": next(left), "eval/greedy": 0.0})
        train(run, out, QUIET)

    trained(tmp_path / "long", 3, [0.1, 0.5, 0.5, 0.3])
    trained(tmp_path / "short", 1, [0.1, 0.5])
    best, last, first = (
        load_file(tmp_path / folder / "model.safetensors") for folder in ("long/best", "long/model", "short/model")
    )
    assert all((best[name] == first[name]).all() for name in first)
    assert any((best[name] != last[name]).any() for name in last)
    # Where nothing beats the beginning, that is the best.
    trained(tmp_path / "worse", 1, [0.9, 0.1])
    begun, kept = load_file(chain_model / "model.safetensors"), load_file(tmp_path / "worse/best/model.safetensors")
    assert all((begun[name] == kept[name]).all() for name in kept)
    assert not list(tmp_path.glob("*/best.*"))


def replace_reward(task, reward):
    """The same problems, judged by another function of problem and response."""

    class Rewarded:
        training_problems = staticmethod(task.training_problems)
        eval_problems = staticmethod(task.eval_problems)
        answers = task.answers
        are_equal = staticmethod(task.are_equal)

        @staticmethod
        def verify(asked):
            return [Verdict(reward(problem, response), Outcome.GRADED, None) for problem, response in asked]

    return Rewarded()

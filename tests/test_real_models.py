"""Hugging Face model folders and published problems, end to end."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models import save_tiny_model
from tests.parts import prepare
from tests.run.test_run import replace_reward
from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.report.terminal import Terminal
from treepo.run.train import train

KINDS = ["qwen2", "qwen3", "llama", "gemma", "mistral"]
TREE = {"width": 4, "depth": 3, "segment_len": 8}
STEPS = {"num_steps": 2, "prompts_per_step": 4}


def as_arguments(section: str, values: dict[str, object]) -> list[str]:
    return list(itertools.chain(*((f"--{section}.{key}", str(value)) for key, value in values.items())))


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_on_gsm8k(kind, gsm8k, tmp_path):
    """Rewards that differ stand in for a model that sometimes answers: the whole step runs and the model changes."""
    folder = save_tiny_model(tmp_path / "model", kind, chat=kind in ("qwen2", "qwen3"), max_position_embeddings=2048)
    sections = {"tree": TREE, "train": STEPS, "data": {"train": (f"gsm8k={gsm8k}",)}}
    config = resolve(sections, {"model": {"path": str(folder)}, "optim": {"lr": 1e-3}, "eval": {"num_problems": 4}})
    terminal = Terminal(Console(quiet=True))
    run = prepare(config, tmp_path / "out", terminal)
    task = replace_reward(run.task, lambda _, response: float(len(set(response)) % 2))
    train(replace(run, trainer=replace(run.trainer, task=task)), tmp_path / "out", terminal)

    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all(m["problems/trained"] > 0 for m in metrics[1:])
    assert all(m["tokens/forwarded"] < m["tokens/unpacked"] for m in metrics[1:])
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert any(not torch.equal(before[name], weight) for name, weight in trained.state_dict().items())
    assert all(torch.isfinite(weight).all() for weight in trained.state_dict().values())
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").encode("72") == AutoTokenizer.from_pretrained(
        folder
    ).encode("72")


def test_the_command_of_the_readme_for_gsm8k(gsm8k, tmp_path, capsys):
    folder = save_tiny_model(tmp_path / "model", "llama", max_position_embeddings=1000)
    args = ["train", "--model.path", str(folder), "--data.train", f"gsm8k={gsm8k}", "--out", str(tmp_path / "out")]
    args += ["--data.max_prompt_len", "300"]
    args += as_arguments("tree", TREE) + as_arguments("train", STEPS) + ["--eval.num_problems", "4"]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "of 7473 problems dropped: prompts of more than 300 tokens" in out
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_no_problem_that_fits_is_an_error(tmp_path, capsys):
    folder = save_tiny_model(tmp_path / "model")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a long question", "answer": "1"}\n' * 3)
    args = ["train", "--model.path", str(folder), "--data.train", str(tmp_path / "p.jsonl")]
    args += as_arguments("tree", TREE)
    capsys.readouterr()
    assert main([*args, "--data.max_prompt_len", "5", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("treepo: data.train: no problem has at most 5 prompt tokens")
    assert error.count("\n") == 1


def test_the_prompt_follows_the_chat_template(tmp_path):
    folder = save_tiny_model(tmp_path / "model", chat=True)
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "{i}+1?", "answer": {i + 1}}}\n' for i in range(30)))
    data, prompt = {"train": (str(tmp_path / "p.jsonl"),)}, {"question": "{question} Box it."}
    run = prepare(
        resolve({"data": data, "prompt": prompt, "tree": TREE, "model": {"path": str(folder)}}),
        tmp_path / "out",
        Terminal(Console(quiet=True)),
    )
    problem = run.task.training_problems(0, 1)[0]
    text = run.policy.tokenizer.decode(problem.prompt_ids)
    assert text == f"<user>{problem.prompt} Box it.<assistant>"

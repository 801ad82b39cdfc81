"""`treepo train --dry-run`: what a run would begin with."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models import save_tiny_model
from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.model.policy import load_policy
from treepo.model.tokenizer_only import load_tokenizer_only
from treepo.run.task import build_task


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), chat=True)


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command in an empty folder, from which nothing may have been removed or added."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREEPO_CACHE", str(tmp_path / "cache"))

    def run(*args: str, has_model: bool = True) -> int:
        before = sorted(tmp_path.rglob("*"))
        given = ["--model.path", str(model)] if has_model else []
        code = main(["train", "--dry-run", *given, "--tree.segment_len", "8", "--tree.depth", "2", *args])
        assert sorted(tmp_path.rglob("*")) == before
        return code

    return run


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_the_first_prompt_is_shown_as_the_model_gets_it(run, model, tmp_path, capsys):
    chat = [{"role": "system", "content": "Own."}, {"role": "user", "content": "1+1?"}]
    train = write(tmp_path / "t.jsonl", {"prompt": [*chat, {"role": "assistant", "content": "So"}], "answer": "2"})
    evaluation = write(tmp_path / "e.jsonl", *({"prompt": f"{i}?", "answer": f"{i}"} for i in range(7)))
    assert run("--data.train", train, "--data.eval", evaluation, "--prompt.question", "Q:{question}") == 0
    shown = capsys.readouterr().out
    prompt = "<user>Own.<user>Q:1+1?<assistant>So"
    policy = load_policy(str(model))
    count = len(policy.tokenizer.encode(prompt, add_special_tokens=False))
    assert f"first prompt, t.jsonl:1: {count} tokens\n{'-' * 80}\n{prompt}\n{'-' * 80}\n" in shown
    assert (
        "known answer   '2'\nas a response  '\\\\boxed{2}'\nverdict        1 (graded), extracted answer '2'\n" in shown
    )
    assert "train      t: 1 problem\neval       e: 7 problems\n" in shown
    for essential in (
        str(model),
        "8 trajectories of at most 2 segments of 8 tokens",
        "MathVerifier",
        "TreePO",
        "lr 1e-06",
    ):
        assert essential in shown


def test_the_weights_are_not_loaded(run, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    train = ["--data.train", write(tmp_path / "t.jsonl", {"prompt": "1?", "answer": "2"})]
    assert run(*train, "--train.num_steps", "1", "--train.prompts_per_step", "1") == 0
    assert "training   1 step of 1 problem, lr" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model.device", "cuda:99", "model.device: cannot use 'cuda:99': "),
        ("environment.factory", "no_such_module:Maze", "environment.factory: cannot be imported: "),
    ],
)
def test_what_the_run_would_refuse_is_refused(run, tmp_path, capsys, setting, value, message):
    """A dry run passed where the run ends at once: on a device or in an environment that is not there."""
    train = write(tmp_path / "t.jsonl", {"prompt": "1?", "answer": "2"})
    assert run("--data.train", train, f"--{setting}", value) == 2
    assert message in capsys.readouterr().err


def test_it_shows_the_problem_and_the_tokens_that_the_run_begins_with(model, tmp_path):
    """The same as a run with the whole model has."""
    path = write(tmp_path / "t.jsonl", *({"prompt": f"{i}?", "answer": f"{i}"} for i in range(50)))
    config = resolve({"model": {"path": str(model)}, "data": {"train": path}, "tree": {"segment_len": 8, "depth": 2}})
    shown = build_task(config, load_tokenizer_only(str(model)), 500)
    real = build_task(config, load_policy(str(model)), 500)
    try:
        assert shown.training_problems(0, 20) == real.training_problems(0, 20)
    finally:
        for task in (shown, real):
            task.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_what_the_probe_finds_is_shown(run, tmp_path, capsys):
    rows = [{"prompt": f"{i}?", "answer": f"one\nand {i}\n#### {i}"} for i in range(20)]
    path = write(tmp_path / "t.jsonl", *rows)
    assert run("--data.train", path) == 0
    shown = capsys.readouterr().out
    assert "hold ####" in shown and "data.answer_after" in shown and r"'one\nand" in shown


def test_what_steers_a_terminal_is_escaped(run, tmp_path, capsys):
    """In the prompt, the known answer and the verdict."""
    evil = "\x1b[2J\u202e[red]x[/red]"
    path = write(tmp_path / "t.jsonl", {"prompt": "1?", "answer": evil})
    assert run("--data.train", path, "--verifier.use", "ExactVerifier", "--prompt.question", evil + "{question}") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "[red]x[/red]" in shown and r"\x1b[2J" in shown


def test_columns_and_a_verdict_of_ones_own(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "levels.py").write_text("def judge(response, ground_truth, level):\n    return level / 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    own = ("--verifier.use", "FunctionVerifier", "--verifier.function", "levels:judge")
    path = write(tmp_path / "t.jsonl", {"prompt": "1?", "answer": "1", "level": 4})
    assert run("--data.train", path, *own) == 0
    assert "verdict        1 (graded)" in capsys.readouterr().out
    path = write(tmp_path / "t.jsonl", {"prompt": "1?", "answer": "1"})
    assert run("--data.train", path, *own) == 2
    assert "verifier.function: needs the column 'level'" in capsys.readouterr().err


def test_the_built_in_task_needs_no_model(run, capsys):
    """Its base model, which takes minutes, is not made."""
    assert run("--branching.use", "Planned", "--branching.tokens_per_step", "900", has_model=False) == 0
    shown = capsys.readouterr().out
    assert "of about 900 decoded tokens (32 problems until the first plan), lr" in " ".join(shown.split())
    assert "base model of the built-in task" in shown and "verdict        1 (graded)" in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.eval", "E"], "data.train: no dataset to train on"),
        (["--data.train", "none.jsonl"], "data.train: cannot read 'none.jsonl'"),
        (["--data.train", "E", "--verifier.use", "ChoiceVerifier"], "ChoiceVerifier does not recognise"),
        (["--data.train", "E", "--model.path", "/none"], "given twice"),
        (["--resume", "E"], "dry-run: shows how a new run begins; give no --resume"),
        (["--data.train", "E", "--out", "full"], "out: "),
        (
            ["--data.train", "E", "--prompt.chat_template_kwargs.thinks", "false"],
            "the chat template has no such variable",
        ),
        (
            ["--data.train", "E", "--prompt.chat_template_kwargs", "{a = 1}"],
            "chat_template_kwargs.a: the chat template has",
        ),
        (["--data.train", "E", "--prompt.chat_template_kwargs", "no"], "prompt.chat_template_kwargs: "),
        (["--data.train", "E", "--data.on_bad_record", "pass"], "data.on_bad_record: "),
        (
            ["--data.train", "E", "--engine.kind", "vllm", "--model.device", "cpu", "--tree.align", "12"],
            "tree.align: must be a multiple of the 32 tokens of vLLM's blocks, got 12",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(args, message, run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    path = write(tmp_path / "e.jsonl", *({"prompt": f"{i}?", "answer": f"{i}"} for i in range(7)))
    assert run(*[path if arg == "E" else arg for arg in args]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_one_process_of_a_job_shows_what_all_would_do(run, capsys, monkeypatch):
    """Settings that a job of this size cannot have are named by each, as the job itself would."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert run("--processes.shard_size", "2", has_model=False) == 0
        shown = capsys.readouterr().out
        assert ("processes  4, of which 2 share a copy of the weights\n" in shown) == (rank == "0")
        assert run("--processes.shard_size", "3", has_model=False) == 2
        assert "processes.shard_size: must divide the 4 processes, got 3" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_named(run, tmp_path, capsys):
    (tmp_path / "m").mkdir()
    for name in ("config.json", "tokenizer.json", "a.safetensors"):
        (tmp_path / "m" / name).write_text("no JSON")
    path = write(tmp_path / "t.jsonl", {"prompt": "1?", "answer": "1"})
    for folder, reason in (("m", "model.path: cannot load"), ("none/at/all", "model.path: no folder")):
        assert run("--data.train", path, "--model.path", folder, has_model=False) == 2
        assert reason in capsys.readouterr().err
    assert run("--data.train", path, has_model=False) == 2
    assert "model.path: the problems of" in capsys.readouterr().err


def test_a_long_answer_is_shown_shortened(run, tmp_path, capsys):
    """A known answer of 100,000 characters was a line of as many, three times."""
    assert run("--data.train", write(tmp_path / "t.jsonl", {"prompt": "1?", "answer": "9" * 100_000})) == 0
    assert max(map(len, capsys.readouterr().out.split("\n"))) < 500


def test_fields_of_records_are_not_for_the_built_in_task(run, capsys):
    """--data.prompt_field without a dataset did nothing, without a word."""
    assert run("--data.prompt_field", "q") == 2
    assert capsys.readouterr().err.startswith("treepo: data.prompt_field: the built-in task has no records; give data")

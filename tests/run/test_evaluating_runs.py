"""`treepo eval RUN`: the model of a run, with the run's settings as defaults."""

import json
import shutil
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.run.test_evaluation import answers, figures
from tests.run.test_export import lora_run, run, train  # noqa: F401 - fixtures
from tests.runs import judge_length
from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.errors import SettingError
from treepo.run.evaluation_plan import _layers
from treepo.run.given_runs import _check_code
from treepo.verify.task import VerifiedTask


@pytest.fixture(autouse=True)
def judged_by_length(monkeypatch):
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)


def evaluate(*args: object) -> int:
    return main(["eval", *map(str, args)])


def responses(out: Path) -> list[tuple[str, str]]:
    return [(row["problem"], row["response"]) for row in answers(out)]


def test_a_run_is_its_final_model_with_its_problems_and_lengths(run, tmp_path, capsys):  # noqa: F811
    """The same answers as with the run's settings and its model spelled out; tables and files call it the run."""
    assert evaluate(run, "--samples", 2, "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "Accuracy in percent: 2 answers per problem, at most 16 tokens, temperature 1" in " ".join(said.split())
    recipe = ["--recipe", run / "config.toml", "--model.path", run / "model"]
    assert evaluate(*recipe, "--samples", 2, "--out", tmp_path / "spelled") == 0
    assert responses(tmp_path / "run") == responses(tmp_path / "spelled")
    assert [row["model"] for row in figures(tmp_path / "run")] == [str(run)]
    assert len(answers(tmp_path / "run")) == 6


def test_a_run_without_a_final_model_is_that_of_its_last_checkpoint(run, tmp_path):  # noqa: F811
    """And any checkpoint by its step; nothing of it is left."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.rmtree(out / "model")
    before = set(out.rglob("*"))
    assert evaluate(out, f"{out}@3", "--samples", 2, "--out", tmp_path / "out") == 0
    assert evaluate(run, run / "models" / "step-000003", "--samples", 2, "--out", tmp_path / "spelled") == 0
    for one, other in ((str(out), str(run)), (f"{out}@3", str(run / "models" / "step-000003"))):
        found, expected = (
            [row["response"] for row in answers(folder) if row["model"] == name]
            for folder, name in ((tmp_path / "out", one), (tmp_path / "spelled", other))
        )
        assert found == expected and found
    assert set(out.rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out", "spelled"}


def test_of_a_run_with_an_adapter_alone_the_whole_model_is_asked(lora_run, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(lora_run, out)
    shutil.rmtree(out / "model")
    assert evaluate(out, "--samples", 2, "--out", tmp_path / "out") == 0
    assert evaluate(lora_run, "--samples", 2, "--out", tmp_path / "merged") == 0
    assert responses(tmp_path / "out") == responses(tmp_path / "merged")


def test_length_and_temperature_are_options_and_stand_in_the_head(run, tmp_path, capsys):  # noqa: F811
    """Longer answers than the run's trees, and trees as deep as these need."""
    options = ["--samples", 2, "--max-tokens", 21, "--temperature", 0.5, "--sampling", "sequential", "tree"]
    assert evaluate(run, *options, "--out", tmp_path / "out") == 0
    assert "at most 21 tokens, temperature 0.5" in " ".join(capsys.readouterr().out.split())
    lengths = {
        setting: [r["num_tokens"] for r in answers(tmp_path / "out") if r["setting"] == setting]
        for setting in ("sequential", "tree")
    }
    assert all(16 < max(found) <= 21 for found in lengths.values())
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["engine"]["temperature"] == 0.5
    assert evaluate(run, "--samples", 2, "--max-tokens", 5, "--out", tmp_path / "short") == 0
    assert max(row["num_tokens"] for row in answers(tmp_path / "short")) == 5


def test_one_table_is_shown_and_the_others_when_asked(run, tmp_path, capsys):  # noqa: F811
    args = [run, "--samples", 2, "--out", tmp_path / "out"]
    assert evaluate(*args) == 0
    short = capsys.readouterr().out
    assert evaluate(*args, "--verbose") == 0
    long = capsys.readouterr().out
    for title in ("maj@k", "pass@k, all datasets", "Cost and accuracy", "Lengths and speed", "Outcomes, percent"):
        assert title not in short and title in long
    assert "Accuracy in percent" in short and "Accuracy in percent" in long
    assert "--verbose shows them" in short and max(map(len, short.splitlines()[-8:-1])) <= 80


def test_other_problems_and_settings_win_over_those_of_the_run(run, tmp_path):  # noqa: F811
    (tmp_path / "other.jsonl").write_text('{"prompt": "21a+3b-2c:", "answer": "7"}\n')
    more = ["--data", tmp_path / "other.jsonl", "--tree.segment_len", 3]
    assert evaluate(run, "--samples", 2, *more, "--out", tmp_path / "out") == 0
    rows = answers(tmp_path / "out")
    assert {row["ground_truth"] for row in rows} == {"7"} and max(row["num_tokens"] for row in rows) <= 6


def test_runs_that_disagree_are_refused(run, tmp_path, capsys):  # noqa: F811
    """Two figures that cannot be compared."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    text = (other / "config.toml").read_text()
    (other / "config.toml").write_text(text.replace('use = "ExactVerifier"', 'use = "NumericVerifier"'))
    assert evaluate(run, other, "--samples", 2, "--out", tmp_path / "out") == 2
    expected = f"MODEL: {str(run)!r} and {str(other)!r} have different settings of [verifier]; name some (--recipe)"
    assert capsys.readouterr().err == f"treepo: {expected}\n"
    verifier = ["--verifier.use", "ExactVerifier"]
    assert evaluate(run, other, "--samples", 2, *verifier, "--out", tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('use = "ExactVerifier"', 'use = "of_nobody:Verifier"', "verifier.use: the run names code to be run; give "),
        ('use = "EvenBranching"', 'use = "of_nobody:Branching"', "branching.use: the run names code"),
        ("trust_remote_code = false", "trust_remote_code = true", "model.trust_remote_code: the run names code"),
        (
            'use = "ExactVerifier"',
            'use = "FunctionVerifier"\nfunction = "os:system"',
            "verifier.function: the run names code",
        ),
        (
            'use = "ExactVerifier"',
            'use = "TasksetVerifier"\ntasksets = ["nobodys"]',
            "verifier.tasksets: the run names",
        ),
        ("\neval = [", '\neval = ["verifiers:nobodys", ', "data.eval: the run names code"),
        ('\nfactory = ""', '\nfactory = "of_nobody:Maze"', "environment.factory: the run names code"),
        ("tools = []", 'tools = ["of_nobody:look_up"]', "environment.tools: the run names code"),
        ("tools = []", 'tools = ["python:code"]', "environment.tools: the run names code"),
        ('tool_factory = ""', 'tool_factory = "of_nobody:Game"', "environment.tool_factory: the run names code"),
    ],
)
def test_code_that_a_run_names_is_run_only_if_trusted(run, tmp_path, capsys, old, new, message):  # noqa: F811
    """Somebody else's run folder would run anything when it is evaluated."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    text = (other / "config.toml").read_text()
    assert old in text
    (other / "config.toml").write_text(text.replace(old, new))
    assert evaluate(other, "--samples", 1, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"treepo: {message}")
    assert not (tmp_path / "out").exists()
    if "of_nobody" in new:
        assert evaluate(other, "--samples", 1, "--trust-run-code", "--out", tmp_path / "out") == 2
        assert "No module named 'of_nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run_settings", "given", "refused"),
    [
        ({"verifier": {"use": "TasksetVerifier", "tasksets": ["x"]}}, {"verifier": {"use": "TasksetVerifier"}}, True),
        ({"verifier": {"tasksets": ["x"]}}, {"verifier": {"use": "TasksetVerifier"}}, True),
        ({"verifier": {"use": "FunctionVerifier", "function": "a:b"}}, {"verifier": {"use": "FunctionVerifier"}}, True),
        ({"verifier": {"use": "FunctionVerifier", "function": "a:b"}}, {"verifier": {"use": "MathVerifier"}}, False),
        ({"verifier": {"use": "FunctionVerifier", "function": "a:b"}}, {"verifier": {"function": "c:d"}}, False),
        ({"data": {"train": ["verifiers:x"]}}, {"data": {"eval": ["y.jsonl"]}}, False),
    ],
)
def test_naming_the_part_of_a_run_again_does_not_trust_the_code_in_its_settings(run_settings, given, refused):
    """`--verifier.use TasksetVerifier` keeps the run's verifier.tasksets, which were imported without a word."""
    with pytest.raises(SettingError, match="the run names code") if refused else nullcontext():
        _check_code(run_settings, given)


def test_problems_that_are_named_by_data_take_the_place_of_a_runs_taskset():
    """`treepo eval RUN --data FILE` was refused for the taskset that the run was trained on, which nothing reads."""
    runs: Any = {"run": SimpleNamespace(settings=lambda: {"data": {"train": ["verifiers:nobodys"]}})}
    options = dict.fromkeys(("recipe", "temperature", "repetition_penalty", "max_tokens"))
    options |= {"settings": {}, "trust_run_code": False}
    with pytest.raises(SettingError, match="data.train: the run names code"):
        _layers(Namespace(data=[], **options), runs)
    config = resolve(*_layers(Namespace(data=["verifiers:mine"], **options), runs))
    assert (config.data.train, config.data.eval) == ((), ("verifiers:mine",))


def test_a_run_without_checkpoints_is_told_in_a_line(run, tmp_path, capsys):  # noqa: F811
    other = tmp_path / "other"
    shutil.copytree(run, other)
    for name in ("model", "checkpoints"):
        shutil.rmtree(other / name)
    assert evaluate(other, "--samples", 1, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"treepo: RUN: there is no checkpoint in '{other}/checkpoints'")
    assert evaluate(f"{run}@77", "--samples", 1, "--out", tmp_path / "out2") == 2
    assert "RUN: no whole checkpoint of step 77" in capsys.readouterr().err

"""`treepo train` as a user types it."""

import json
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.report.trees import read_trees
from treepo.run.folder import next_commands

SMALL = ["--train.num_steps", "2", "--train.prompts_per_step", "4", "--eval.num_problems", "6"]


def train(folder: Path, out: Path, *args: str) -> int:
    return main(["train", "--model.path", str(folder), "--out", str(out), *SMALL, *args])


def read_metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(chain_model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert train(chain_model, out) == 0
    return out


def test_a_run_folder_holds_settings_metrics_and_model(trained):
    config = resolve(tomllib.loads((trained / "config.toml").read_text()))
    assert (config.train.num_steps, config.train.prompts_per_step, config.tree.segment_len) == (2, 4, 16)
    metrics = read_metrics(trained)
    assert [m["step"] for m in metrics] == [0, 1, 2]
    assert all(0 <= metrics[i][name] <= 1 for i in (0, 2) for name in ("eval/avg", "eval/greedy"))
    names = {"reward/mean", "tokens/decoded", "tokens/distinct", "tokens/total", "tokens/forwarded"}
    assert names | {"time/grow_s", "time/update_s"} <= set(metrics[1])


def test_trees_are_kept_as_often_as_asked(chain_model, tmp_path):
    args = ["train", "--model.path", str(chain_model), "--out", str(tmp_path / "out"), *SMALL]
    assert main([*args, "--train.save_trees_every", "2"]) == 0
    files = sorted((tmp_path / "out" / "trees").iterdir())
    assert [f.name for f in files] == ["step-000001.parquet", "step-000002.parquet"], "the first and the last, too"
    kept = read_trees(files[1])
    assert [len(k.tree.leaves()) for k in kept] == [8] * 4
    assert np.mean([k.rewards for k in kept]) == read_metrics(tmp_path / "out")[2]["reward/mean"]
    assert sum(k.tree.num_decoded() for k in kept) == read_metrics(tmp_path / "out")[2]["tokens/decoded"]
    assert sum(k.advantages is not None for k in kept) == read_metrics(tmp_path / "out")[2]["problems/trained"]


def test_token_counts_bound_each_other(trained):
    for m in read_metrics(trained)[1:]:
        assert m["tokens/distinct"] <= m["tokens/decoded"] < m["tokens/total"]
        assert m["tokens/forwarded"] <= m["tokens/unpacked"]


def test_the_trained_model_loads_without_treepo(trained, chain_model):
    model = AutoModelForCausalLM.from_pretrained(trained / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    ids = torch.tensor([tokenizer.encode("62a-7b+7c+2d+3:")])
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()
    before, after = (load_file(folder / "model.safetensors") for folder in (chain_model, trained / "model"))
    if any(m.get("problems/trained", 0) for m in read_metrics(trained)):
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_gives_the_same_run_bit_by_bit(trained, chain_model, tmp_path):
    assert train(chain_model, tmp_path / "again") == 0
    for first, second in zip(read_metrics(trained), read_metrics(tmp_path / "again"), strict=True):
        # A process's peak counts what other tests took before.
        differing = {k for k in first if first[k] != second.get(k)}
        assert first.keys() == second.keys()
        assert not {k for k in differing if not k.startswith("time/") and k != "memory/peak_bytes"}
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (trained, tmp_path / "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_another_run(trained, chain_model, tmp_path):
    assert train(chain_model, tmp_path / "other", "--train.seed", "1") == 0
    assert read_metrics(trained)[1]["tokens/decoded"] != read_metrics(tmp_path / "other")[1]["tokens/decoded"]


def test_a_run_is_never_overwritten(trained, chain_model, capsys):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    assert train(chain_model, trained) == 2
    assert capsys.readouterr().err == f"treepo: out: '{trained}' already holds files; give a new folder\n"
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_the_grpo_recipe_runs_on_the_same_code(chain_model, tmp_path):
    recipe = Path(__file__).parents[2] / "recipes" / "chain_sums_grpo.toml"
    args = ["train", str(recipe), "--model.path", str(chain_model), "--out", str(tmp_path / "grpo"), *SMALL]
    assert main(args) == 0
    for m in read_metrics(tmp_path / "grpo")[1:]:
        assert m["tokens/decoded"] == m["tokens/total"]


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("treepo: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tree.widht", "4"], "tree.widht: unknown setting"),
        (["--tree.width", "x"], "tree.width"),
        (["--tree.width"], "tree.width: no value given"),
        (["--width", "4"], "unrecognized arguments: --width"),
        (["--tree.width", "--tree.depth", "4"], "tree.width: no value given"),
        (["--tree.width", "4", "--tree.width", "5"], "tree.width: given twice"),
        (["--tree.width", "4\ntree.depth = 3"], "tree.width"),
        (["--tree.width", "99999999999999999999999"], "tree.width"),
        (["--model.device", "meta"], "model.device: cannot use 'meta'"),
        (["--tree.depth", "40"], "responses of 640 tokens"),
        (
            ["--engine.max_cache_tokens", "144"],
            "no room for a prompt in the model's 256 positions or the engine's 136 tokens",
        ),
        (["--tree.token_budget", "2", "--tree.min_response_len", "5"], "tree.token_budget: must allow a trajectory"),
        (["--reward.overlong", "1"], "reward.overlong_buffer: must be within 1..128, the longest response, got 512"),
        (["--reward.format", "-1"], "reward.format: must not be negative, got -1"),
        (["--reward.use", "nowhere:Terse"], "reward.use: cannot find 'nowhere:Terse'"),
        (["--dynamic_sampling.max_rounds", "0"], "dynamic_sampling.max_rounds: must be within"),
        (["--model.device", "cuda:9"], "model.device: cannot use 'cuda:9'"),
        (["--data.eval", "x.jsonl"], "data.train: no dataset to train on; treepo eval is for held-out datasets alone"),
        (["--data.train", "missing.jsonl", "--tree.segment_len", "16"], "data.train: cannot read 'missing.jsonl'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(args, message, chain_model, tmp_path, capsys):
    assert train(chain_model, tmp_path / "out", *args) == 2
    assert message in one_line_error(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("args", [["grow"], ["train", "no.toml"], ["train", "--data.train", "x.jsonl"]])
def test_mistakes_without_a_model_are_one_line_too(args, tmp_path, capsys):
    assert main([*args, "--out", str(tmp_path / "out")]) == 2
    one_line_error(capsys)


@pytest.mark.parametrize(
    ("missing", "message"), [("tokenizer", "no tokenizer"), ("model", "no safetensors"), ("config", "no config.json")]
)
def test_incomplete_model_folders_are_named(missing, message, chain_model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(chain_model, folder)
    for path in folder.glob(f"{missing}*"):
        path.unlink()
    assert train(folder, tmp_path / "out") == 2
    assert message in one_line_error(capsys)


def test_a_recipe_may_stand_behind_options(chain_model, tmp_path):
    recipe = Path(__file__).parents[2] / "recipes" / "chain_sums_grpo.toml"
    args = ["train", "--out", str(tmp_path / "o"), str(recipe), "--model.path", str(chain_model)]
    assert main([*args, "--train.num_steps", "0", "--eval.num_problems", "0"]) == 0
    assert tomllib.loads((tmp_path / "o" / "config.toml").read_text())["credit"]["use"] == "GRPO"


def test_what_is_told_to_do_next_can_be_done(trained, tmp_path, monkeypatch):
    """The commands that a run ends with are printed for any task and model: they must at least resolve."""
    config = resolve(tomllib.loads((trained / "config.toml").read_text()))
    for _, command in next_commands(config, trained):
        args = shlex.split(command)[1:]
        small = ["--train.num_steps", "0", "--eval.num_problems", "0"]
        monkeypatch.chdir(tmp_path)
        edited = tmp_path / "recipe.toml"
        recipe = (trained / "config.toml").read_text().replace("num_steps = 2", "")
        edited.write_text(recipe.replace("num_problems = 6\n", "num_problems = 0\n"))
        args[1] = str(edited)
        assert main([*args, "--out", str(tmp_path / str(len(args))), *small[:2]]) == 0


def test_of_two_runs_in_one_folder_one_fails(chain_model, tmp_path, monkeypatch, capsys):
    """Both found the folder empty and wrote into it."""
    for module in ("treepo.run.folder", "treepo.utils.io"):
        monkeypatch.setattr(f"{module}.check_unused", lambda *_: None)
    out = tmp_path / "out"
    assert train(chain_model, out) == 0
    before = (out / "config.toml").read_bytes()
    assert train(chain_model, out, "--train.seed", "5") == 2
    assert "out: cannot write to" in one_line_error(capsys)
    assert (out / "config.toml").read_bytes() == before

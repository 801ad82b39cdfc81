"""Runs on problems of libraries: their defaults, what they refuse, and resuming."""

import signal
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from tests.models import save_tiny_model
from tests.parts import prepare
from tests.runs import assert_same_run, die, finish
from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.schema import DataSettings
from treepo.data.datasets import load_datasets
from treepo.errors import SettingError
from treepo.learn.updater import Updater
from treepo.model.policy import load_policy
from treepo.report.terminal import Terminal
from treepo.run.length import with_epochs
from treepo.run.task import build_task
from treepo.trainer import TreePOTrainer
from treepo.verify import ExactVerifier, MathVerifier, NoVerifier, ReasoningGymVerifier, TasksetVerifier
from treepo.verify.task import VerifiedTask

GYM = "reasoning_gym:chain_sum?max_terms=2"


def test_datasets_of_the_library_bring_its_scorer_and_prompt():
    """Unless others are named; the settings of a run say so."""
    config = resolve({"data": {"train": GYM}})
    assert isinstance(config.verifier, ReasoningGymVerifier)
    assert config.prompt.question == "{question}" and "<answer>" in config.prompt.system
    assert resolve(tomllib.loads(to_toml(config))) == config
    boxed = resolve(
        {"data": {"train": [GYM]}, "verifier": {"extract_from": ["box"]}, "prompt": {"question": "{question}!"}}
    )
    assert boxed.verifier == ReasoningGymVerifier(extract_from=("box",))
    assert (boxed.prompt.system, boxed.prompt.question) == ("", "{question}!")
    assert isinstance(resolve({"data": {"eval": [GYM]}}, {"verifier": {"use": "MathVerifier"}}).verifier, MathVerifier)
    assert isinstance(
        resolve({"data": DataSettings(train=(GYM,)), "verifier": ExactVerifier()}).verifier, ExactVerifier
    )
    assert isinstance(resolve({"data": {"train": ["gsm8k"]}}).verifier, MathVerifier)


def test_tasksets_bring_their_verifier_and_leave_prompts_alone(monkeypatch):
    taskset = {"data": {"train": "verifiers:reverse-text?select.limit=9"}}
    config = resolve(taskset, {"prompt": {"system": "Be brief."}})
    assert isinstance(config.verifier, TasksetVerifier)
    assert (config.prompt.system, config.prompt.question) == ("Be brief.", "{question}")
    assert resolve(tomllib.loads(to_toml(config))) == config
    with pytest.raises(SettingError, match=r"^verifier.use: name one that judges both tasks of verifiers .*'gsm8k'"):
        resolve({"data": {"train": ["verifiers:reverse-text", "gsm8k"]}})
    with pytest.raises(SettingError, match=r"^verifier.use: judges tasks of verifiers alone"):
        resolve({"data": {"train": "gsm8k"}, "verifier": {"use": "TasksetVerifier"}})
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(SettingError, match=r"^data.train: verifiers: needs .*pip install 'treepo\[verifiers\]'"):
        load_datasets(config.data.train, config.data, lambda text: [1], 100)


def test_a_mixture_with_other_datasets_needs_a_verifier_for_both():
    mixed = {"data": {"train": [GYM, "gsm8k"]}}
    with pytest.raises(SettingError, match=r"^verifier.use: name one that judges both .*'gsm8k'"):
        resolve(mixed)
    with pytest.raises(SettingError, match=r"^verifier.use: judges problems of reasoning_gym alone.*'gsm8k'"):
        resolve(mixed, {"verifier": {"use": "ReasoningGymVerifier"}})
    assert isinstance(resolve(mixed, {"verifier": {"use": "MathVerifier"}}).verifier, MathVerifier)


def test_the_trainer_takes_the_name():
    assert isinstance(TreePOTrainer(train_dataset=GYM).config.verifier, ReasoningGymVerifier)
    rewarded = TreePOTrainer(reward_funcs=lambda completions, **_: [0.0] * len(completions), train_dataset=GYM)
    assert isinstance(rewarded.config.verifier, NoVerifier)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    pytest.importorskip("reasoning_gym")
    return save_tiny_model(tmp_path_factory.mktemp("model"), chat=True)


def test_a_run_has_no_epochs_and_holds_out_as_many_as_are_asked_for(model):
    config = resolve(
        {"data": {"train": GYM, "eval_size": 12}, "tree": {"width": 2, "depth": 1, "segment_len": 4}},
        {"train": {"num_epochs": 1.0}, "verifier_pool": {"num_workers": 1}, "prompt": {"system": ""}},
    )
    task = build_task(config, load_policy(str(model)), 10_000)
    assert isinstance(task, VerifiedTask)
    try:
        with pytest.raises(SettingError, match=r"^train.num_epochs: .*no epochs; give train.num_steps"):
            with_epochs(config, task)
        held_out = task.eval_problems(400)
        assert len(held_out) == 12
        asked = task.training_problems(0, 50)
        assert not {p.prompt for p in asked} & {p.prompt for p in held_out}
        right = f"<answer>{asked[0].ground_truth}</answer>"
        assert [v.correct for v in task.verify([(asked[0], right), (asked[1], "<answer>x</answer>")])] == [1.0, 0.0]
    finally:
        task.close()


def die_in_updates() -> None:
    """In the update of the third step."""
    original, calls = Updater.update, []

    def replaced(*args, **kwargs):
        calls.append(1)
        return die() if len(calls) == 3 else original(*args, **kwargs)

    Updater.update = replaced


def test_a_killed_run_is_resumed_bit_for_bit(model, tmp_path):
    """A mixture of two endless datasets: nothing of them is on disk."""
    options = [
        "--model.path",
        str(model),
        "--data.train",
        f'["{GYM}", "reasoning_gym:gcd"]',
        "--data.weights",
        "[2.0, 1.0]",
    ]
    options += [
        "--data.eval_size",
        "4",
        "--eval.num_problems",
        "4",
        "--data.max_prompt_len",
        "2000",
        "--prompt.system",
        "",
    ]
    options += ["--tree.width", "4", "--tree.depth", "2", "--tree.segment_len", "8", "--train.prompts_per_step", "4"]
    options += [
        "--train.num_steps",
        "4",
        "--optim.lr",
        "1e-3",
        "--checkpoint.every",
        "1",
        "--verifier_pool.num_workers",
        "1",
    ]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert finish(["train", *options, "--out", str(whole)], tmp_path / "log") == 0, (tmp_path / "log.err").read_text()
    killed = finish(["train", *options, "--out", str(out)], tmp_path / "log", die_in_updates)
    assert killed == -signal.SIGKILL, (tmp_path / "log.err").read_text()
    assert finish(["train", "--resume", str(out)], tmp_path / "log") == 0, (tmp_path / "log.err").read_text()
    assert_same_run(whole, out)


def test_the_recipe_builds_and_steps(model, tmp_path):
    """With a tiny model on the CPU and small trees, and all of its datasets."""
    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "reasoning_gym_qwen2.5_0.5b.toml")
    small = {
        "model": {"path": str(model), "device": "cpu"},
        "data": {"eval_size": 2, "max_prompt_len": 4000},
        "tree": {"width": 2, "depth": 2, "segment_len": 4},
        "train": {"prompts_per_step": 5, "autocast": "none"},
        "eval": {"num_problems": 8, "num_samples": 1},
        "prompt": {"system": ""},
        "verifier_pool": {"num_workers": 1},
    }
    run = prepare(resolve(recipe, small), tmp_path / "out", Terminal(Console(quiet=True)))
    try:
        assert run.trainer.step(1).metrics["verify/no_answer"] > 0.5
        names = ["chain_sum", "basic_arithmetic", "gcd", "word_sorting"]
        assert [p.dataset for p in run.task.eval_problems(4)] == names
        assert {p.dataset for p in run.task.training_problems(0, 64)} == set(names)
    finally:
        run.close()

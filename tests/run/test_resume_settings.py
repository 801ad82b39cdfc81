"""What a resumed run refuses, and what it may change."""

import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.config.schema import Config
from treepo.engine.settings import EngineSettings
from treepo.run.resume import MAY_CHANGE, changed_settings
from treepo.utils.io import lock_dir

DOCS = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()


def test_every_setting_that_may_change_exists_and_is_in_the_docs():
    names = {(section, key) for section, keys in MAY_CHANGE.items() for key in keys}
    for section, key in names:
        assert hasattr(getattr(Config(), section), key), (section, key)
    table = DOCS[DOCS.index("## What may change") : DOCS.index("## Signals")]
    rows = "".join(line for line in table.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)\.(\w+)`", rows)) == names


def test_what_bounds_the_engine_may_change():
    """`engine.num_scheduler_steps`, on which no tree depends, was refused when a run was resumed."""
    shaping = {"kind", "temperature", "top_k", "top_p", "min_p"}
    assert set(MAY_CHANGE["engine"]) == {f.name for f in fields(EngineSettings)} - shaping


def test_changed_settings_are_named_with_both_values():
    """Also those that one of the two lacks: None is not written down, and classes have settings of their own."""
    old = resolve({"train": {"num_steps": 5}, "engine": {"max_cache_tokens": 100}})
    new = resolve({"train": {"num_steps": 6}, "loss": {"use": "CISPO"}})
    changes = {name: (before, after) for name, before, after in changed_settings(old, new)}
    assert changes["train.num_steps"] == (5, 6)
    assert changes["engine.max_cache_tokens"] == (100, None)
    assert changes["loss.use"] == ("PPO", "CISPO")
    assert {name.partition(".")[0] for name in changes} == {"train", "engine", "loss"}
    assert changed_settings(old, old) == []


def test_two_processes_do_not_train_in_one_folder(chain_model, tmp_path, capfd):
    """A watchdog that restarts a run may take it for dead when it is not."""
    out = tmp_path / "run"
    small = ["--train.num_steps", "0", "--eval.num_problems", "0"]
    assert main(["train", "--model.path", str(chain_model), "--out", str(out), *small]) == 0
    before = (out / "config.toml").read_bytes()
    with lock_dir(out):
        assert main(["train", "--resume", str(out), "--train.num_steps", "1"]) == 2
    assert capfd.readouterr().err == f"treepo: resume: another process writes to {str(out)!r}\n"
    assert (out / "config.toml").read_bytes() == before
    assert main(["train", "--resume", str(out)]) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--resume", "nowhere"], "resume: 'nowhere' holds no run: there is no config.toml"),
        (["--resume", "."], "resume: '.' holds no run: there is no config.toml"),
        (["--resume", ""], "resume: no value given"),
        (["--resume", ".", "--out", "x"], "resume: a run goes on with its own settings in its own folder"),
        (["--resume", ".", "recipe.toml"], "resume: a run goes on with its own settings in its own folder"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_a_line(args, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *args]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"treepo: {message}")
    assert error.count("\n") == 1


def test_a_folder_that_holds_no_run_is_left_as_it_was(tmp_path):
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_needed_and_were_changed_are_refused(chain_model, tmp_path, capfd):
    """With adapters or a KL penalty the initial weights are read again, and are no part of a checkpoint."""
    model, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(chain_model, model)
    small = ["--train.num_steps", "0", "--eval.num_problems", "0", "--lora.rank", "2"]
    assert main(["train", "--model.path", str(model), "--out", str(out), *small]) == 0
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x3f")
    assert main(["train", "--resume", str(out), "--train.num_steps", "1"]) == 2
    assert capfd.readouterr().err == (
        "treepo: resume: model.path: the weights are no longer those that the run was started with\n"
    )

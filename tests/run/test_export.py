"""Models out of checkpoints: `treepo export`, and `checkpoint.save_model`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.runs import judge_length, write_sets
from treepo.cli.main import main
from treepo.learn.checkpoint import CheckpointStore, step_folder, steps_in
from treepo.model.policy import Policy
from treepo.verify.task import VerifiedTask

SMALL = {
    "train.num_steps": 4,
    "train.prompts_per_step": 4,
    "train.save_trees_every": 0,
    "optim.lr": 1e-3,
    "tree.width": 4,
    "tree.depth": 2,
    "tree.segment_len": 8,
    "eval.num_problems": 2,
    "eval.num_samples": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 3,
    "checkpoint.save_model": "true",
}


def train(model: Path, folder: Path, **more: object) -> Path:
    """A run whose answers are right if their length is even; its folder."""
    settings = [text for name, value in {**SMALL, **more}.items() for text in (f"--{name}", str(value))]
    out = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VerifiedTask, "verify", judge_length)
        args = ["train", "--model.path", str(model), "--out", str(out), *write_sets(folder), *settings]
        assert main(args) == 0
    return out


@pytest.fixture(scope="module")
def run(chain_model, tmp_path_factory) -> Path:
    return train(chain_model, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def lora_run(chain_model, tmp_path_factory) -> Path:
    pytest.importorskip("peft")
    return train(chain_model, tmp_path_factory.mktemp("lora"), **{"lora.rank": 2})


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def assert_same_weights(folder: Path, other: Path, name: str = "model.safetensors") -> None:
    first, second = weights(folder, name), weights(other, name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_exported_checkpoint_is_the_model_of_that_step(run, tmp_path):
    """Of the last step the final model, of another the one that was saved at its checkpoint; with the tokenizer."""
    assert main(["export", str(run), str(tmp_path / "last")]) == 0
    assert_same_weights(tmp_path / "last", run / "model")
    assert main(["export", f"{run}@3", str(tmp_path / "deep" / "third")]) == 0
    assert_same_weights(tmp_path / "deep" / "third", run / "models" / "step-000003")
    assert any(not torch.equal(w, weights(run / "model")[k]) for k, w in weights(tmp_path / "deep" / "third").items())
    names = {path.name for path in (tmp_path / "last").iterdir()}
    assert names == {path.name for path in (run / "model").iterdir()}
    AutoModelForCausalLM.from_pretrained(tmp_path / "last")
    assert AutoTokenizer.from_pretrained(tmp_path / "last").encode("62a") == AutoTokenizer.from_pretrained(
        run / "model"
    ).encode("62a")
    assert not list(tmp_path.rglob("*.partial"))


def test_the_best_checkpoint_is_exported_by_its_name(run, tmp_path):
    store = CheckpointStore(run / "checkpoints", keep=1)
    best = store.progress(4).best_step
    assert main(["export", f"{run}@best", str(tmp_path / "best")]) == 0
    assert main(["export", f"{run}@{best}", str(tmp_path / "step")]) == 0
    assert_same_weights(tmp_path / "best", tmp_path / "step")


def test_models_at_checkpoints_are_kept_as_long_as_these(run):
    """The last three and the best."""
    assert steps_in(run / "models") == steps_in(run / "checkpoints")
    assert steps_in(run / "models")[-3:] == [2, 3, 4]
    assert_same_weights(run / "models" / "step-000004", run / "model")


def test_the_type_is_that_of_the_base_model_unless_another_is_given(run, chain_model, tmp_path):
    assert main(["export", str(run), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    saved = weights(tmp_path / "half")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert all(torch.equal(saved[name], tensor.bfloat16()) for name, tensor in weights(run / "model").items())
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    # Trained in float32 on a base that was published in bfloat16.
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(chain_model, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    shutil.copytree(run, out)
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace(str(chain_model), str(base)))
    assert main(["export", str(out), str(tmp_path / "like")]) == 0
    assert_same_weights(tmp_path / "like", tmp_path / "half")


def test_of_adapters_the_adapter_is_exported_or_the_whole(lora_run, tmp_path, chain_model):
    assert main(["export", str(lora_run), str(tmp_path / "adapter")]) == 0
    assert_same_weights(tmp_path / "adapter", lora_run / "adapter", "adapter_model.safetensors")
    assert_same_weights(lora_run / "models" / "step-000004", lora_run / "adapter", "adapter_model.safetensors")
    assert main(["export", str(lora_run), str(tmp_path / "whole"), "--merge"]) == 0
    assert_same_weights(tmp_path / "whole", lora_run / "model")
    assert any(not torch.equal(w, weights(chain_model)[k]) for k, w in weights(tmp_path / "whole").items())


def test_a_base_that_was_changed_is_refused(lora_run, chain_model, tmp_path, capsys):
    """The weights that adapters are added to are no part of a checkpoint."""
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(chain_model, base)
    changed = {name: tensor + 1 for name, tensor in weights(chain_model).items()}
    save_file(changed, base / "model.safetensors", {"format": "pt"})
    shutil.copytree(lora_run, out)
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace(str(chain_model), str(base)))
    assert main(["export", str(out), str(tmp_path / "new"), "--merge"]) == 2
    assert "model.path: the weights are no longer those that the run was started with" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_damaged_and_missing_checkpoints_are_refused(run, tmp_path, capsys):
    """One bit of a weight; of the last checkpoint the one before is taken, of a step that was named none."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shard = next(step_folder(out / "checkpoints", 4).glob("*.safetensors"))
    bits = bytearray(shard.read_bytes())
    bits[-1] ^= 1
    shard.write_bytes(bits)
    assert main(["export", f"{out}@4", str(tmp_path / "new")]) == 2
    assert "RUN: no whole checkpoint of step 4 in " in capsys.readouterr().err
    assert main(["export", f"{out}@9", str(tmp_path / "new")]) == 2
    assert "RUN: no whole checkpoint of step 9 in " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["export", str(out), str(tmp_path / "new")]) == 0
    assert "checkpoint of step 4 is damaged" in capsys.readouterr().out
    assert_same_weights(tmp_path / "new", run / "models" / "step-000003")


def test_a_pickle_in_a_checkpoint_is_never_read(run, tmp_path, capsys):
    """A file that the manifest does not name makes the checkpoint a damaged one."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (step_folder(out / "checkpoints", 4) / ".metadata").write_bytes(b"\x80\x04cos\nsystem\n")
    assert main(["export", f"{out}@4", str(tmp_path / "new")]) == 2
    assert "no whole checkpoint of step 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{run}"], "export: give the folder of a run and a new folder"),
        (["{run}", "{new}", "--train.seed", "1"], "train: an export has no settings but --dtype and --merge"),
        (["{tmp}", "{new}"], "RUN: '{tmp}' holds no run: there is no config.toml"),
        (["{run}", "{run}"], "DIR: '{run}' already holds files; give a new folder"),
        (["{run}", "{new}", "--merge"], "--merge: the run has no adapter: all weights were trained"),
        (["{run}", "{new}", "--dtype", "int8"], "command line: argument --dtype: invalid choice: 'int8'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(args, message, run, tmp_path, capsys):
    names = {"run": run, "new": tmp_path / "new", "tmp": tmp_path}
    assert main(["export", *(arg.format(**names) for arg in args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"treepo: {message.format(**names)}") and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_code_that_a_run_names_is_not_run_unless_trusted(run, tmp_path, capsys):
    """A run folder may come from anybody: a module that its settings name is not imported, nor that of its model."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    text = (out / "config.toml").read_text()
    named = text.replace('use = "TreePO"', 'use = "antigravity_of_nobody:Class"')
    assert named != text
    (out / "config.toml").write_text(named)
    assert main(["export", str(out), str(tmp_path / "first")]) == 0
    (out / "config.toml").write_text(named.replace("trust_remote_code = false", "trust_remote_code = true"))
    assert main(["export", str(out), str(tmp_path / "second")]) == 2
    assert "model.trust_remote_code: runs Python code that comes with the model" in capsys.readouterr().err
    assert main(["export", str(out), str(tmp_path / "second"), "--trust-run-code"]) == 0


def test_a_disk_that_is_full_costs_a_model_and_not_the_run(chain_model, tmp_path, monkeypatch, capsys):
    """What stands in the way of a model at a checkpoint is a warning, as with the checkpoint itself."""
    save = Policy.save

    def full(policy: Policy, folder: Path) -> None:
        if folder.parent.name == "models":
            raise OSError(28, "No space left on device", str(folder))
        save(policy, folder)

    monkeypatch.setattr(Policy, "save", full)
    out = train(chain_model, tmp_path, **{"train.num_steps": 1})
    assert "warning: the model of step 1 could not be written (No space left on device)" in capsys.readouterr().out
    assert (out / "model" / "model.safetensors").is_file() and steps_in(out / "checkpoints") == [1]

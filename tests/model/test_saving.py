"""Models on disk: looked at before they take their name."""

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.models import SIZES, make_tiny_model
from treepo.model.adapters import add_adapter
from treepo.model.saving import save_model
from treepo.model.settings import LoraSettings


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """Tied weights, which are written once, are no reason to refuse; a model that was there is replaced."""
    for tied in (True, False):
        model = make_tiny_model(tie_word_embeddings=tied)
        save_model(model, tmp_path / "model")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), loaded.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_experts_that_lie_side_by_side_in_memory_and_one_by_one_on_disk(tmp_path: Path) -> None:
    """Their names and shapes are others, their numbers as many."""
    kinds = [
        (MixtralConfig, MixtralForCausalLM, "num_local_experts"),
        (Qwen3MoeConfig, Qwen3MoeForCausalLM, "num_experts"),
    ]
    for make_config, make_model, name in kinds:
        config = make_config(**SIZES | {"vocab_size": 16, "moe_intermediate_size": 16, "head_dim": 8, name: 3})
        model = make_model(config)
        save_model(model, tmp_path / "model")
        with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
            assert set(file.keys()) - model.state_dict().keys()


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[max(weights)]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


DAMAGES = {
    "nothing is written": lambda folder: [path.unlink() for path in folder.iterdir()],
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "a file is cut": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "a header is cut": lambda folder: os.truncate(folder / "model.safetensors", 20),
    "a tensor is missing": lose_a_tensor,
    "a config is missing": lambda folder: (folder / "config.json").unlink(),
    "a config is cut": lambda folder: os.truncate(folder / "config.json", 100),
    "a config is empty": lambda folder: os.truncate(folder / "config.json", 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_was_not_written_is_not_believed(damage: str, tmp_path: Path, monkeypatch) -> None:
    """Libraries may log an error and return. What was there before stays."""
    model = make_tiny_model()
    save_model(model, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    original = PreTrainedModel.save_pretrained

    def save_and_damage(self: PreTrainedModel, folder: Path) -> None:
        original(self, folder)
        DAMAGES[damage](folder)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_and_damage)
    with pytest.raises(OSError, match=r"cannot be read|numbers were written|was not written"):
        save_model(make_tiny_model(seed=1), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_adapter_is_looked_at_too(tmp_path: Path, monkeypatch) -> None:
    model = make_tiny_model()
    add_adapter(model, LoraSettings(rank=2), seed=0)
    save_model(model, tmp_path / "adapter")
    original = PreTrainedModel.save_pretrained

    def save_half(self: PreTrainedModel, folder: Path) -> None:
        original(self, folder)
        (folder / "adapter_model.safetensors").unlink()

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_half)
    with pytest.raises(OSError, match="0 of [0-9]+ numbers were written"):
        save_model(model, tmp_path / "adapter")

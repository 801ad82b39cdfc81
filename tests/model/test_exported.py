"""A sharded model's weights reach engines and files without any process holding more than has to be."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from tests.gathered_bytes import HeldBytes
from tests.models import make_tiny_model
from tests.processes import run_in
from treepo.distributed import DistContext
from treepo.model.adapters import add_adapter
from treepo.model.exported import ExportedWeights, exported_weights
from treepo.model.fsdp import gathered_copy, shard
from treepo.model.probe import probe_ids, sequence_logprobs
from treepo.model.settings import LoraSettings

NUM_LAYERS = 8

KINDS = {"qwen2": 0.8, "with an adapter": 2.7}
"""The most that is held at a time, in layers in float32: half a layer and a tensor, or, where adapters are merged in
the type of the weights, that layer, what it amounts to, and this in the other type."""


def make(kind: str) -> PreTrainedModel:
    """A model whose layers are most of it."""
    name = "llama" if kind == "with an adapter" else kind
    model = make_tiny_model(name, num_hidden_layers=NUM_LAYERS, hidden_size=64, intermediate_size=256)
    if kind == "with an adapter":
        add_adapter(model, LoraSettings(rank=2), seed=0)
        generator = torch.Generator().manual_seed(1)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, generator=generator)
    return model


def num_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def export(processes: DistContext, folder: Path) -> None:
    """What the first process sends, while the other one follows."""
    facts: dict[str, int] = {}
    for kind in KINDS:
        plain, dtype = make(kind), torch.bfloat16
        expected, state = dict(exported_weights(plain, dtype)), plain.state_dict()
        model = make(kind)
        shard(model, init_device_mesh("cpu", (2,)))
        # A forward leaves weights gathered that no backward frees.
        sequence_logprobs(model, probe_ids(model), 1.0)
        weights, names = ExportedWeights(model, dtype), []
        with HeldBytes() as held:
            if processes.is_first:
                for name, tensor in weights:
                    assert tensor.dtype == dtype and torch.equal(tensor, expected[name]), name
                    names.append(name)
                assert names == list(expected)
            weights.finish()
        facts[kind] = held.peak
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        empty = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.shapes()}
        assert empty == {name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()}
        with HeldBytes() as held:
            copy = gathered_copy(model, processes.is_first)
        facts[f"{kind} copy"] = held.peak
        if processes.is_first:
            assert all(torch.equal(tensor, state[name]) for name, tensor in copy.state_dict().items())
    # The sender fails before it begins, and in the middle: the other one does not wait for ever.
    model = make("qwen2")
    shard(model, init_device_mesh("cpu", (2,)))
    for count in (0, 5):
        weights = ExportedWeights(model)
        if processes.is_first and count:
            sending = iter(weights)
            for _ in range(count):
                next(sending)
        weights.finish()
    (folder / f"{processes.rank}.json").write_text(json.dumps(facts))


def test_weights_are_gathered_layer_by_layer_in_the_type_they_are_sent_in(tmp_path: Path) -> None:
    """Every process used to hold a whole model in float32, whatever it was gathered for."""
    pytest.importorskip("peft")
    run_in(2, export, tmp_path)
    peaks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for kind, factor in KINDS.items():
        model = make(kind)
        layer = max(map(num_bytes, model.model.layers))
        assert num_bytes(model) > 7.5 * layer
        for own in peaks:
            assert own[kind] <= factor * layer
        # The copy that is saved is the first process's alone; the other one holds a tensor at a time.
        assert num_bytes(model) <= peaks[0][f"{kind} copy"]
        assert peaks[1][f"{kind} copy"] <= layer

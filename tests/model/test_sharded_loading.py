"""Models that are divided as their weights are read: the same as those that are read first, in less memory."""

import json
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.gathered_bytes import HeldBytes
from tests.models import save_tiny_model
from tests.processes import run_in
from treepo.distributed import DistContext
from treepo.model.attention import ATTENTION_NAME, register_attention
from treepo.model.fsdp import Sharding, gathered_copy, is_sharded, mixed_precision
from treepo.model.policy import Policy, load_policy
from treepo.model.probe import TOLERANCE, probe_ids, sequence_logprobs
from treepo.model.sharded_loading import _weight_files, load_sharded

LAYERS = 8
"""Of a model whose layers weigh more than its embeddings."""

ARGUMENTS = {
    "dtype": torch.float32,
    "attn_implementation": ATTENTION_NAME,
    "trust_remote_code": False,
    "revision": None,
}

NUM_PARTS = {"llama": 1, "qwen2": 3}
"""In how many files the weights are; those of the second tie its embeddings."""


def load_in_parts(processes: DistContext, folder: Path) -> None:
    """Each checks what it has, and says how much it held at most while it loaded."""
    sharding = Sharding(init_device_mesh("cpu", (processes.world_size,)), mixed_precision("bfloat16"))
    register_attention()
    held = {}
    for kind in NUM_PARTS:
        path = str(folder / kind)
        whole = load_policy(path)
        with HeldBytes() as counted:
            load_sharded(path, whole.model.config, ARGUMENTS, "cpu", sharding)
        layer = sum(p.nbytes for p in whole.model.model.layers[0].parameters())
        held[kind] = (counted.peak - sum(p.nbytes for p in whole.model.parameters()) / 2) / layer
        divided = load_policy(path, sharding=sharding)
        assert is_sharded(divided.model)
        assert all(isinstance(parameter, DTensor) for parameter in divided.model.parameters())
        check_same(divided, whole)
    (folder / f"{processes.rank}.json").write_text(json.dumps(held))


def check_same(divided: Policy, whole: Policy) -> None:
    """All weights, tied ones still one, and what samples and learns."""
    gathered = gathered_copy(divided.model)
    own, other = gathered.state_dict(), whole.model.state_dict()
    assert own.keys() == other.keys()
    for name, tensor in other.items():
        torch.testing.assert_close(own[name], tensor, rtol=0, atol=0)
    assert len(list(divided.model.parameters())) == len(list(whole.model.parameters()))
    assert divided.eos_ids == whole.eos_ids
    found, expected = (sequence_logprobs(model, probe_ids(model), 1.0) for model in (divided.model, whole.model))
    # It computes in bfloat16.
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[torch.bfloat16])


def test_each_process_holds_its_shards_and_one_layer(tmp_path: Path) -> None:
    for kind, num_parts in NUM_PARTS.items():
        folder = save_tiny_model(tmp_path / kind, kind, num_hidden_layers=LAYERS, intermediate_size=256)
        if num_parts > 1:
            model = load_policy(str(folder)).model
            size = sum(p.nbytes for p in model.parameters())
            model.save_pretrained(folder, max_shard_size=size // num_parts)
            (folder / "model.safetensors").unlink(missing_ok=True)
            assert len(list(folder.glob("*.safetensors"))) >= num_parts
    run_in(2, load_in_parts, tmp_path)
    # The most that is held beside the shards, in layers; not counted is what is read of a file.
    for rank in (0, 1):
        for kind, share in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            assert 0.5 < share < 1.1, kind


@pytest.mark.quick
def test_what_lies_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    """An index may name any path."""
    folder = save_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert _weight_files(str(folder), None) == {}

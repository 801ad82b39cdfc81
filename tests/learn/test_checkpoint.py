"""Training that was saved and restored continues bit for bit."""

import json

import pytest
import torch
from torch import nn

from tests.learn.train_states import drawn, make_train_state, save, step, weights
from treepo.learn.checkpoint import CheckpointStore, Progress, Snapshot
from treepo.learn.optim import make_optimizer
from treepo.learn.settings import OptimSettings
from treepo.learn.train_state import TrainState, load_tensors, save_tensors, seed_random


@pytest.mark.parametrize("num_before", [0, 1, 5])
def test_a_restored_learner_goes_on_bit_by_bit(tmp_path, num_before):
    """Also one that has made no update yet: torch's get_state_dict counts one for asking."""
    seed_random(1)
    whole = make_train_state(0)
    for number in range(num_before):
        step(whole, number)
    store = CheckpointStore(tmp_path, keep=1)
    folder = save(store, whole, Progress(num_before, 0.25, 1))
    for number in range(num_before, 9):
        step(whole, number)
    expected = drawn()
    seed_random(2)
    other = make_train_state(0)
    assert store.restore(num_before, other) == Progress(num_before, 0.25, 1)
    for number in range(num_before, 9):
        step(other, number)
    assert drawn() == expected
    assert weights(whole) == weights(other)
    assert whole.schedule.state_dict() == other.schedule.state_dict()
    assert whole.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"]
    names = set(json.loads((folder / "manifest.json").read_text())["files"])
    assert names == {"state.json", "shard-00001-model-00001-of-00001.safetensors"}


def test_what_is_not_trained_is_left_alone(tmp_path):
    """A checkpoint holds no frozen weight, and tied ones once."""
    train_state = make_train_state(0)
    step(train_state, 0)
    names = set(train_state.copy_tensors())
    assert {n for n in names if n.startswith("model.")} == {"model.first", "model.narrow", "model.unused", "model.seen"}
    assert {n.rpartition(".")[0] for n in names if n.startswith("opt")} == {"optimizer.first", "optimizer.narrow"}
    store = CheckpointStore(tmp_path, keep=1)
    save(store, train_state, Progress(1, 0.0, 0))
    other = make_train_state(5)
    frozen = other.model.frozen.clone()
    store.restore(1, other)
    assert torch.equal(other.model.frozen, frozen)
    assert torch.equal(other.model.first, train_state.model.first)
    assert int(other.model.seen) == 0


def test_a_copy_does_not_follow_the_weights():
    train_state = make_train_state(0)
    step(train_state, 0)
    copy = Snapshot.of(train_state, Progress(1, 0.0, 0)).tensors
    before = {name: tensor.clone() for name, tensor in copy.items()}
    step(train_state, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in copy.items())
    assert not torch.equal(copy["model.first"], train_state.model.first)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    save(store, make_train_state(0), Progress(1, 0.0, 0))
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="holds other tensors than the model has, such as 'model.bias'"):
        store.restore(1, TrainState(model, *make_optimizer(model, OptimSettings())))


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor(1.5), torch.zeros(0, 3), torch.tensor([float("nan"), -0.0, float("inf")]), torch.tensor([2**40])],
    ids=str,
)
def test_every_kind_of_tensor_is_kept(tmp_path, tensor):
    save_tensors(tmp_path, {"a": tensor, "b": tensor.clone()})
    room = {"a": torch.zeros_like(tensor), "b": torch.zeros_like(tensor)}
    load_tensors(tmp_path, room)
    assert all(found.numpy().tobytes() == tensor.numpy().tobytes() for found in room.values())
    with pytest.raises(RuntimeError, match="Missing key"):
        load_tensors(tmp_path, {"c": tensor})


def test_nothing_is_written_with_pickle(tmp_path):
    """torch's default storage keeps its index as a pickle, which runs code when it is read."""
    folder = save(CheckpointStore(tmp_path, keep=1), make_train_state(0), Progress(1, 0.0, 0))
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}

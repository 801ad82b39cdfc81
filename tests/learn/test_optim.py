"""Optimizers by name, learning-rate schedules, and resuming with each of them."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup

from tests.learn.train_states import Model, save, step, weights
from tests.models import make_tiny_model
from treepo.config.load import resolve
from treepo.errors import SettingError
from treepo.learn.checkpoint import CheckpointStore, Progress
from treepo.learn.optim import MuonAdamW, lr_factor, make_optimizer
from treepo.learn.settings import OptimSettings
from treepo.learn.train_state import TrainState, seed_random

NAMES = ["adamw", "adamw_8bit", "adafactor", "muon", "sgd"]


def settings_of(name: str, **changes: object) -> OptimSettings:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    return OptimSettings(name=name, lr=0.05, **momentum | changes)  # pyright: ignore[reportArgumentType]


def rates(settings: OptimSettings, num_updates: int, count: int) -> list[float]:
    """The rates of the first `count` updates, as the optimizer has them."""
    model = nn.Linear(2, 2)
    optimizer, schedule = make_optimizer(model, settings, num_updates)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def reference_rates(name: str, *, warmup: int, total: int, min_lr_rate: float) -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.4)
    if name == "linear":
        schedule = get_linear_schedule_with_warmup(optimizer, warmup, total)
    else:
        schedule = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=min_lr_rate)
    found = []
    for _ in range(total + 3):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(("name", "min_lr_rate"), [("linear", 0.0), ("cosine", 0.0), ("cosine", 0.25)])
def test_rates_are_those_of_transformers_after_the_warm_up(name, min_lr_rate, warmup):
    settings = OptimSettings(lr=0.4, lr_scheduler_type=name, warmup_steps=warmup, min_lr_rate=min_lr_rate)
    found = rates(settings, num_updates=11, count=14)
    expected = reference_rates(name, warmup=warmup, total=11, min_lr_rate=min_lr_rate)
    # Past the end, transformers' half cosine would rise again if it were not held.
    assert found[warmup:11] == pytest.approx(expected[warmup:11], rel=1e-12)
    assert found[11:] == pytest.approx([0.4 * min_lr_rate] * 3)
    assert found[:warmup] == pytest.approx([0.4 * (i + 1) / 3 for i in range(warmup)])


def test_a_line_ends_at_the_lowest_rate():
    settings = OptimSettings(lr=1.0, lr_scheduler_type="linear", warmup_steps=0, min_lr_rate=0.2)
    assert rates(settings, num_updates=4, count=6) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_a_share_of_the_updates_warms_up():
    """10% of 25 updates are 3, rounded up as in transformers; warmup_steps is not looked at."""
    settings = OptimSettings(lr=0.3, warmup_ratio=0.1, warmup_steps=20)
    assert rates(settings, num_updates=25, count=5) == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


def test_the_number_of_updates_is_that_of_the_run():
    config = resolve({"train": {"num_steps": 6, "num_mini_batches": 4, "num_iterations": 3}})
    assert config.train.num_updates == 72


def test_a_falling_rate_needs_an_end():
    with pytest.raises(SettingError, match="lr_scheduler_type: needs to know how many updates"):
        lr_factor(OptimSettings(lr_scheduler_type="cosine"))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.99), weight_decay=0.3, fused=True)),
        ("adafactor", lambda p: torch.optim.Adafactor(p, lr=0.05, weight_decay=0.3)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.3)),
    ],
)
def test_updates_are_those_of_torch(name, reference):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    other = copy.deepcopy(model)
    optimizer, _ = make_optimizer(
        model, settings_of(name, betas=(0.8, 0.99), weight_decay=0.3, warmup_steps=0), num_updates=3
    )
    expected = reference(other.parameters())
    for _ in range(3):
        x = torch.randn(5, 4)
        for one, own in ((model, optimizer), (other, expected)):
            own.zero_grad()
            one(x).square().mean().backward()
            own.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_muon_is_for_matrices_between_the_embeddings():
    """Each parameter is changed as torch's Muon or AdamW alone would change it."""
    model = make_tiny_model("qwen3", attention="sdpa")
    optimizer, _ = make_optimizer(model, settings_of("muon", warmup_steps=0))
    assert isinstance(optimizer, MuonAdamW)
    names = {p: name for name, p in model.named_parameters()}
    by_muon, by_adamw = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert all("proj" in name for name in by_muon) and len(by_muon) == 7 * len(model.model.layers)
    assert any("embed_tokens" in name for name in by_adamw) and all("proj" not in name for name in by_adamw)

    def reference(groups: list[list[nn.Parameter]]) -> list[torch.optim.Optimizer]:
        muon = torch.optim.Muon(groups[0], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(groups[1], lr=0.05, weight_decay=0.1)]

    other = copy.deepcopy(model)
    parameters = dict(other.named_parameters())
    separate = reference([[parameters[name] for name in group] for group in (by_muon, by_adamw)])
    ids = torch.arange(12)[None] % 7
    for one, parts in ((model, [optimizer]), (other, separate)):
        for _ in range(2):
            for p in one.parameters():
                p.grad = None
            one(input_ids=ids, use_cache=False).logits.square().mean().backward()
            for part in parts:
                part.step()
    assert all(torch.equal(p, parameters[name]) for name, p in model.named_parameters())


def state_of(name: str, **changes: object) -> TrainState:
    model = Model(0)
    settings = settings_of(name, lr_scheduler_type="cosine", warmup_steps=3, **changes)
    return TrainState(model, *make_optimizer(model, settings, num_updates=9))


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("num_before", [0, 1, 5])
@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_bit_for_bit(tmp_path: Path, name: str, num_before: int, offload: bool):
    """Weights, moments and the falling rate are those of a run that was not interrupted."""
    seed_random(1)
    whole = state_of(name, offload=offload)
    for number in range(num_before):
        step(whole, number)
    store = CheckpointStore(tmp_path, keep=1)
    folder = save(store, whole, Progress(num_before, 0.25, 1))
    for number in range(num_before, 9):
        step(whole, number)
    seed_random(2)
    other = state_of(name, offload=offload)
    store.restore(num_before, other)
    for number in range(num_before, 9):
        step(other, number)
    assert weights(whole) == weights(other)
    assert whole.schedule.get_last_lr() == other.schedule.get_last_lr() != [0.05]
    files = set(json.loads((folder / "manifest.json").read_text())["files"])
    assert files == {"state.json", "shard-00001-model-00001-of-00001.safetensors"}


def test_an_8_bit_state_is_kept_as_such(tmp_path: Path):
    """torch's own loading would turn it into the type of the weights."""
    torch.manual_seed(0)
    settings = settings_of("adamw_8bit", warmup_steps=0)

    def build() -> TrainState:
        model = nn.Linear(80, 80)
        return TrainState(model, *make_optimizer(model, settings))

    def update(state: TrainState) -> None:
        state.model(torch.linspace(-1, 1, 160).reshape(2, 80)).square().mean().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()

    whole = build()
    update(whole)
    assert whole.copy_tensors()["optimizer.weight.state1"].dtype == torch.uint8
    store = CheckpointStore(tmp_path, keep=1)
    save(store, whole, Progress(1, 0.0, 0))
    other = build()
    store.restore(1, other)
    update(whole)
    update(other)
    tensors = other.copy_tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in whole.copy_tensors().items())


def test_offloading_changes_no_bit():
    whole, other = state_of("adamw"), state_of("adamw", offload=True)
    for state in (whole, other):
        seed_random(1)
        for number in range(3):
            step(state, number)
    assert weights(whole) == weights(other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_offloaded_state_lies_on_the_cpu():
    state = state_of("adamw", offload=True)
    state.model.cuda()
    state.model(torch.randn(4, 3, device="cuda")).backward()
    state.optimizer.step()
    values = [v for entries in state.optimizer.state.values() for v in entries.values()]
    assert values and all(v.device.type == "cpu" for v in values)


def test_8_bit_adam_without_bitsandbytes_names_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(SettingError, match=r"^optim\.name: 'adamw_8bit' needs bitsandbytes, .*pip install"):
        make_optimizer(nn.Linear(2, 2), OptimSettings(name="adamw_8bit"))


@pytest.mark.parametrize(
    ("settings", "path"),
    [({"name": name}, "optim.name") for name in ("adafactor", "muon", "adamw_8bit")]
    + [({"offload": True}, "optim.offload")],
    ids=str,
)
def test_what_needs_whole_weights_is_refused_where_they_are_sharded(tmp_path: Path, settings: dict, path: str):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = nn.Linear(2, 2)
        model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), init_device_mesh("cpu", (1,))))
        with pytest.raises(SettingError, match=rf"^{path}: "):
            make_optimizer(model, OptimSettings(**settings))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"warmup_ratio": 1.5}, "warmup_ratio"),
        ({"min_lr_rate": -0.1, "lr_scheduler_type": "linear"}, "min_lr_rate"),
        ({"min_lr_rate": 0.1}, "min_lr_rate"),
        ({"momentum": 0.9}, "momentum"),
        ({"momentum": 1.0, "name": "sgd"}, "momentum"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict, name: str):
    with pytest.raises(SettingError, match=f"^{name}: "):
        OptimSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"name": "adam"}, {"lr_scheduler_type": "polynomial"}, {"offload": "maybe"}], ids=str
)
def test_unknown_names_are_refused(wrong: dict):
    with pytest.raises(SettingError, match=rf"^optim\.{next(iter(wrong))}: "):
        resolve({"optim": wrong})

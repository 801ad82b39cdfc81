"""Trees that grow ahead: the same run as over an engine that is one step late, alone and in two processes."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from tests.learn.test_trainer import half_judge, make_trainer, same, weights
from tests.learn.test_trainer_processes import divided
from tests.processes import run_in
from treepo.config.load import resolve
from treepo.distributed import DistContext
from treepo.engine.base import SampleRequest
from treepo.engine.torch.engine import TorchEngine
from treepo.errors import EngineError, SettingError
from treepo.grow.sampler import TreeSampler
from treepo.learn.rollout import RolloutAhead
from treepo.learn.trainer import Trainer
from treepo.model.exported import exported_weights
from treepo.model.fsdp import gather_part, is_sharded

CORRECTED = {"recompute_old_logprobs": True, "importance_cap": 2.0}


class CopyEngine(TorchEngine):
    """Samples from a copy of the weights, of a model that may be divided."""

    reads_model = False

    def update_weights(self, model: nn.Module) -> None:
        self.take({name: tensor.clone() for name, tensor in exported_weights(cast(PreTrainedModel, model))})

    def take(self, found: dict[str, torch.Tensor]) -> None:
        """Sample from these weights from now on."""
        self.model.load_state_dict(found, strict=False)
        super().update_weights(self.model)


class LateEngine(CopyEngine):
    """Samples from the weights that it was given the time before."""

    late: dict[str, torch.Tensor] | None = None

    def update_weights(self, model: nn.Module) -> None:
        before = self.late or dict(exported_weights(cast(PreTrainedModel, model)))
        self.late = {name: tensor.clone() for name, tensor in exported_weights(cast(PreTrainedModel, model))}
        self.take(before if self.num_updates else {k: v.clone() for k, v in self.model.state_dict().items()})


def over(trainer: Trainer, kind: type[CopyEngine], overlap: bool) -> Trainer:
    """The same trainer over an engine with a copy of its weights, with importance weights."""
    model = trainer.policy.model
    engine = kind(gather_part(model) if is_sharded(model) else deepcopy(model), trainer.policy.eos_ids, 64)
    updater = replace(trainer.updater, **CORRECTED)  # type: ignore[arg-type]
    sampler = TreeSampler(engine, trainer.sampler.rules)
    return replace(trainer, engine=engine, sampler=sampler, updater=updater, overlap=overlap, ahead=RolloutAhead())


def steps(trainer: Trainer, count: int = 3) -> list[dict[str, float]]:
    """Metrics of so many steps, but for times and memory."""
    found = [trainer.step(step).metrics for step in range(1, count + 1)]
    return [{k: v for k, v in m.items() if not k.startswith(("time/", "memory/"))} for m in found]


def test_a_step_ahead_is_a_sync_run_whose_engine_is_a_step_late() -> None:
    """Bit for bit: metrics, weights; each tree says of which weights it is, and an evaluation has the newest."""
    ahead, late = over(make_trainer(half_judge), CopyEngine, True), over(make_trainer(half_judge), LateEngine, False)
    found, expected = steps(ahead), steps(late)
    assert [m.pop("mismatch/lag") for m in found] == [0, 1, 1]
    assert found == expected
    assert found[2]["mismatch/kl"] > 1e-4 > found[0]["mismatch/kl"]
    assert same(weights(ahead.policy.model), weights(late.policy.model))
    assert ahead.ahead.step == 4
    result = ahead.step(4)
    assert {tree.weights_version for tree in result.trees} == {2}
    with ahead.serving():
        assert isinstance(ahead.engine, CopyEngine)
        assert same([*ahead.engine.model.parameters()], weights(ahead.policy.model))
    ahead.ahead.close()


class DyingEngine(CopyEngine):
    """Takes no more requests once it was given weights."""

    def submit(self, request: SampleRequest) -> None:
        if self.num_updates:
            raise EngineError("dead")
        super().submit(request)


def test_what_goes_wrong_ahead_is_said_by_the_step_that_needs_the_trees() -> None:
    """The step before is complete; there are no trees to save."""
    trainer = over(make_trainer(half_judge), DyingEngine, True)
    for step in (1, 2):
        assert trainer.step(step).metrics["problems/trained"] > 0
    for _ in range(2):
        with pytest.raises(EngineError, match="dead"):
            trainer.step(3)
    assert trainer.ahead.wait() is None


def test_trees_are_of_one_version_of_the_weights() -> None:
    """An engine that is given weights while trees grow is a bug, which is not passed over."""
    trainer = make_trainer(max_num_seqs=2)
    growing = trainer.sampler.grow(trainer.task.training_problems(0, 3), seed=0)
    next(growing)
    trainer.engine.num_updates += 1
    with pytest.raises(AssertionError, match="weights change only between trees"):
        list(growing)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("section", "changed", "path"),
    [
        ("train", {"importance_cap": None, "recompute_old_logprobs": False}, "train.overlap"),
        ("train", {"importance_cap": None}, "train.overlap"),
        ("engine", {"kind": "embedded"}, "train.overlap"),
        ("engine", {"kind": "vllm"}, "train.overlap"),
        ("engine", {"top_p": 0.9}, "train.overlap"),
        ("engine", {"top_k": 5}, "train.overlap"),
        ("dynamic_sampling", {"max_rounds": 2}, "train.overlap"),
        ("branching", {"use": "Planned"}, "train.overlap"),
        ("train", {"overlap": 2}, "train.overlap"),
    ],
)
def test_what_cannot_overlap_is_refused(section: str, changed: dict[str, object], path: str) -> None:
    good = {
        "train": {"overlap": 1, **CORRECTED},
        "engine": {"kind": "servers"},
        "branching": {},
        "dynamic_sampling": {},
    }
    assert resolve(good).train.overlap == 1
    settings = {**good, section: {k: v for k, v in {**good[section], **changed}.items() if v is not None}}
    with pytest.raises(SettingError) as caught:
        resolve(settings)
    assert caught.value.path == path


def go_ahead(processes: DistContext, folder: Path) -> None:
    trainer = over(divided(make_trainer(half_judge), processes), CopyEngine, True)
    found = [trainer.step(step).metrics for step in (1, 2, 3)]
    if processes.is_first:
        np.save(folder / "found.npy", np.array(curve(found)))


def curve(found: Sequence[dict[str, float]]) -> list[list[float]]:
    """Some metrics of each step."""
    names = ("reward/mean", "tokens/decoded", "mismatch/lag", "update/loss", "update/grad_norm")
    return [[m[name] for name in names] for m in found]


def test_two_processes_grow_ahead_as_one_does(tmp_path: Path) -> None:
    """Trees of one step at a time in each, while both update a divided model."""
    run_in(2, go_ahead, tmp_path)
    alone = over(make_trainer(half_judge), CopyEngine, True)
    expected = [alone.step(step).metrics for step in (1, 2, 3)]
    alone.ahead.close()
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), curve(expected), rtol=1e-3, atol=1e-4)

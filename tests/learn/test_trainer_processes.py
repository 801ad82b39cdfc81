"""Steps of two processes of which one cannot go on, or in which nothing is learned."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from tests.learn.test_trainer import ToyTask, half_judge, make_trainer
from tests.processes import run_in
from treepo.credit.subgroup import TreePO
from treepo.data.problem import Problem
from treepo.distributed import DistContext
from treepo.engine.base import SamplingParams
from treepo.engine.torch.engine import TorchEngine
from treepo.errors import EngineError, Interrupted, PeerError
from treepo.evaluate.answering import Validation
from treepo.grow.planned import Planned
from treepo.grow.sampler import TreeSampler
from treepo.learn.losses import PPO, Penalties, TokenMean
from treepo.learn.optim import make_optimizer
from treepo.learn.scoring import Scorer
from treepo.learn.settings import OptimSettings
from treepo.learn.train_state import TrainState, save_tensors
from treepo.learn.trainer import Trainer
from treepo.learn.updater import Updater
from treepo.model.fsdp import full_tensor, shard, unsharded
from treepo.plan.running import PlannedSampler, RunningPlanner


def divided(trainer: Trainer, processes: DistContext) -> Trainer:
    """The trainer in one of two processes, its model divided over both."""
    model = trainer.policy.model
    shard(model, init_device_mesh("cpu", (2,)))
    with unsharded(model):
        engine = TorchEngine(model, trainer.policy.eos_ids, 64)
    optimizer, schedule = make_optimizer(model, OptimSettings(lr=1e-2, warmup_steps=0))
    updater = Updater(
        scorer=Scorer(model, processes=processes),
        loss=PPO(),
        aggregation=TokenMean(),
        penalties=Penalties(),
        optimizer=optimizer,
        schedule=schedule,
        max_tokens_per_micro_batch=200,
        max_grad_norm=1.0,
        processes=processes,
    )
    sampler = TreeSampler(engine, trainer.sampler.rules)
    return replace(trainer, engine=engine, sampler=sampler, updater=updater, processes=processes)


def told(work: Callable[[], object]) -> str:
    """What a process raises."""
    try:
        work()
    except (PeerError, EngineError, ArithmeticError, LookupError, OSError, Interrupted) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class Failing:
    """In the second process an object of which one method raises; another's otherwise."""

    def __init__(self, whole_one: Any, rank: int, name: str, error: BaseException) -> None:
        self.whole_one, self.name, self.error = whole_one, name if rank == 1 else "", error

    def __getattr__(self, name: str) -> Any:
        if name == self.name:
            raise self.error
        return getattr(self.whole_one, name)


class FailingEstimator(TreePO):
    """Cannot credit anything."""

    def __call__(self, tree: Any, rewards: np.ndarray) -> np.ndarray:
        raise ArithmeticError("no credit")


def fail(trainer: Trainer, rank: int) -> dict[str, str]:
    """One thing after another that the second process cannot do: both stop, and can go on to the next."""

    def step(**changed: Any) -> str:
        return told(lambda: replace(trainer, **changed).step(1))

    engine, task = trainer.engine, trainer.task
    growing = TreeSampler(Failing(engine, rank, "submit", EngineError("dead")), trainer.sampler.rules)  # type: ignore[arg-type]
    signalled = TreeSampler(Failing(engine, rank, "submit", Interrupted(15, False)), trainer.sampler.rules)  # type: ignore[arg-type]
    held_out = Validation(
        Failing(task, rank, "verify", LookupError("no verdict")),  # type: ignore[arg-type]
        *([Problem("p", "", (1, 20), "")] * 2, trainer.policy.decode, 4, 2, 0, trainer.processes),
    )
    with unsharded(trainer.policy.model):
        evaluating = told(lambda: held_out.metrics(engine))
    return {
        "growing": step(sampler=growing),
        "signalled": step(sampler=signalled),
        "verifying": step(task=Failing(task, rank, "verify", LookupError("no verdict"))),
        "crediting": step(estimator=FailingEstimator() if rank == 1 else TreePO()),
        "handing over": step(engine=Failing(engine, rank, "update_weights", EngineError("gone"))),
        "evaluating": evaluating,
    }


def draw(train_state: TrainState, rank: int, folder: Path) -> list[float]:
    """What Python's generator gives before and after a state of its own is put back."""
    random.seed(rank)
    scalars = train_state.scalars()
    assert len(scalars["random"]) == 2 and scalars["random"][0]["python"] != scalars["random"][1]["python"]
    save_tensors(folder / "saved", train_state.copy_tensors(), train_state.processes.group)
    drawn = random.random()
    train_state.restore(folder / "saved", scalars)
    return [drawn, random.random()]


def steps_without_signal(trainer: Trainer) -> list[dict[str, float]]:
    """Two steps in which nothing is learned; a budget of tokens says how many problems the second one has."""
    branching = Planned(start=1, explore=0.9, tokens_per_step=500)
    rules = replace(trainer.sampler.rules, branching=branching)
    planner = RunningPlanner(rules, branching, trainer.estimator, 0, trainer.prompts_per_step, trainer.processes)
    sampler = PlannedSampler(trainer.engine, planner, SamplingParams())
    flat = replace(trainer, task=ToyTask(lambda problem, response: 0.0), sampler=sampler)
    metrics = [flat.step(step, with_entropies=True).metrics for step in (2, 3)]
    names = ("problems/grown", "problems/trained", "tokens/decoded", "plan/tokens_per_tree")
    return [{name: own[name] for name in names if name in own} for own in metrics]


def go_through(processes: DistContext, folder: Path) -> None:
    trainer = divided(make_trainer(half_judge), processes)
    found: dict[str, Any] = {"failed": fail(trainer, processes.rank)}
    # Nothing to learn, but entropies are wanted: what the forward gathered used to be left so, and the engine crashed.
    found["flat"] = steps_without_signal(trainer)
    result = trainer.step(4, with_entropies=True)
    # The first process has all trees, the other one its own; each beside its problem.
    assert [problem.id for problem in result.problems] == [tree.problem_id for tree in result.trees]
    found["metrics"] = result.metrics
    found["single"] = replace(trainer, prompts_per_step=1).step(5).metrics
    train_state = TrainState(trainer.policy.model, trainer.updater.optimizer, trainer.updater.schedule, processes)
    found["drawn"] = draw(train_state, processes.rank, folder)
    weights = {k: full_tensor(v.detach()).contiguous() for k, v in trainer.policy.model.named_parameters()}
    (folder / f"{processes.rank}.json").write_text(json.dumps(found))
    if processes.is_first:
        torch.save(weights, folder / "weights.pt")


def test_two_processes_stop_together_and_go_on(tmp_path):
    """What the second one could not do reaches the first, whatever it was; no state is left half done."""
    run_in(2, go_through, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    errors = {
        "growing": "EngineError: dead",
        "signalled": "Interrupted: stopped by SIGTERM",
        "verifying": "LookupError: no verdict",
        "crediting": "ArithmeticError: no credit",
        "handing over": "EngineError: gone",
        "evaluating": "LookupError: no verdict",
    }
    assert second["failed"] == errors
    for name, error in errors.items():
        assert first["failed"][name] == f"PeerError: process 1 could not go on: {error.partition(': ')[2]}"
    assert first["metrics"] == second["metrics"] and first["single"] == second["single"]
    assert [drawn[0] == drawn[1] for drawn in (first["drawn"], second["drawn"])] == [True, True]
    assert first["drawn"] != second["drawn"]

    alone = make_trainer(half_judge)
    # Of the failed steps one had been learned from: that whose weights could not be handed over.
    alone.step(1)
    flat = steps_without_signal(alone)
    assert first["flat"] == second["flat"] == [pytest.approx(own) for own in flat]
    assert [own["problems/trained"] for own in flat] == [0, 0]
    assert flat[0]["problems/grown"] == 5 < flat[1]["problems/grown"]
    metrics = alone.step(4, with_entropies=True).metrics
    single = replace(alone, prompts_per_step=1).step(5).metrics
    for expected, found in ((metrics, first["metrics"]), (single, first["single"])):
        assert expected["problems/trained"] == found["problems/trained"] >= 0
        for name, value in expected.items():
            if not name.startswith(("time/", "memory/", "engine/", "mismatch/")):
                assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, parameter in alone.policy.model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), rtol=1e-3, atol=1e-4)

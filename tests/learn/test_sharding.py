"""A model that is divided over processes is updated and served as if it were whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.learn.reference import random_advantages, random_trees
from tests.learn.test_update import gradients, largest_difference, updater_of
from tests.models import make_tiny_model
from tests.processes import run_in
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import SampleRequest
from treepo.engine.torch.engine import TorchEngine
from treepo.learn.losses import GSPO, Penalties, TrajectoryMean
from treepo.learn.optim import make_optimizer
from treepo.learn.packing import PackedTree
from treepo.learn.scoring import Scorer
from treepo.learn.settings import OptimSettings
from treepo.learn.train_state import TrainState
from treepo.learn.updater import Updater
from treepo.model.attention import TreeAttention
from treepo.model.fsdp import (
    full_tensor,
    gathered_copy,
    is_sharded,
    mixed_precision,
    plain_weights,
    shard,
    to_local,
    unsharded,
)
from treepo.model.passes import COMMS, PassComms

CASES: dict[str, dict[str, Any]] = {
    "whole trees": {},
    "in parts": {"max_tokens": 40},
    "per trajectory": {"max_tokens": 40, "loss": GSPO(), "aggregation": TrajectoryMean()},
    "held near": {"max_tokens": 60, "penalties": Penalties(kl_coef=0.3, entropy_coef=0.02)},
}
SHARES = {"whole trees": 3, "in parts": 1, "per trajectory": 2, "held near": 4}
"""Of four trees so many are the first process's; the last time the second has none."""

TYPES = {("same", "same"): 1e-5, ("bfloat16", "float32"): 0.03, ("bfloat16", "same"): 0.03, ("same", "bfloat16"): 0.01}
"""Types in which weights are gathered and gradients summed, and how far gradients may be off by them."""

DTYPES = {"same": torch.float32, "bfloat16": torch.bfloat16}

RUNS = (*(("qwen2", case) for case in CASES), ("llama", "whole trees"), ("llama", "held near"))
"""With tied embeddings and without, which have balanced trees."""


def updater_for(kind: str, case: str, processes: DistContext | None) -> Updater:
    """In one of two processes of which the model is divided, or alone."""
    model = make_tiny_model(kind, dtype=torch.float64)
    other = make_tiny_model(kind, dtype=torch.float64, seed=1)
    scorer = Scorer(model)
    if processes is not None:
        scorer = replace(scorer, processes=processes)
        mesh = init_device_mesh("cpu", (2, 1) if case == "in parts" else (2,), mesh_dim_names=names(case))
        shard(model, mesh)
        shard(other, mesh, is_trained=False)
    updater = updater_of(model, scorer=scorer, **CASES[case])
    updater = replace(updater, processes=scorer.processes, recompute_old_logprobs=True)
    return replace(updater, reference=other) if updater.penalties.kl_coef else updater


def names(case: str) -> tuple[str, ...]:
    """Copies of whole models in one case, shards in the others."""
    return ("replicate", "shard") if case == "in parts" else ("shard",)


def packed_parts(updater: Updater, own: slice) -> list[PackedTree]:
    trees = random_trees(make_tiny_model(dtype=torch.float64, attention="sdpa"), 8, 4)
    advantages = random_advantages(trees, 8)
    pairs = list(zip(trees, advantages, strict=True))[own]
    return [part for tree, values in pairs for part in updater.pack(tree, values)]


def update_own(processes: DistContext, folder: Path) -> None:
    for kind, case in RUNS:
        updater = updater_for(kind, case, processes)
        first = SHARES[case]
        own = slice(first) if processes.is_first else slice(first, None)
        (parts,), told = updater.balance([packed_parts(updater, own)])
        # The shares were uneven; what is learned is the same.
        assert 1 <= told["update/imbalance"] <= told["update/imbalance_grown"]
        prepared = updater.prepare(parts if kind == "llama" else packed_parts(updater, own))
        if updater.reference is not None:
            # What it gathered in its forward used to stay on every process.
            assert all(isinstance(p, DTensor) for p in updater.reference.parameters())
        metrics = updater.update(prepared)
        found = {k: full_tensor(g).contiguous() for k, g in gradients(updater.scorer.model).items()}
        if processes.is_first:
            torch.save(found, folder / f"{kind} {case}.pt")
            (folder / f"{kind} {case}.json").write_text(json.dumps(metrics))
    update_in_bfloat16(processes, folder)


def update_in_bfloat16(processes: DistContext, folder: Path) -> None:
    """Types of communication over shards in float32: the bytes that this process sends, and the gradients."""
    numbers: dict[str, int] = {}
    for types in TYPES:
        model = make_tiny_model("llama")
        shard(model, init_device_mesh("cpu", (2,)), precision=mixed_precision(*types))
        updater = updater_of(model, scorer=Scorer(model, processes=processes))
        updater = replace(updater, processes=processes)
        sent = count_sent(getattr(model, COMMS))
        updater.update(packed_parts(updater, slice(processes.rank, None, 2)))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        found = {name: full_tensor(gradient).contiguous() for name, gradient in gradients(model).items()}
        name = " ".join(types)
        numbers[name] = sum(sent)
        with unsharded(model):
            # The engine computes with the weights that the trainer computes with.
            assert {parameter.dtype for parameter in model.parameters()} == {DTYPES[types[0]]}
            assert np.isfinite(draw(TorchEngine(model, [2]), 0)[1]).all()
        if processes.is_first:
            torch.save(found, folder / f"{name}.pt")
    if processes.is_first:
        (folder / "sent.json").write_text(json.dumps(numbers))


def count_sent(comms: PassComms) -> list[int]:
    """A list that grows by the bytes of each gather and scatter."""
    sent: list[int] = []
    run = comms.run

    def counted(collective: Any, output: Any, num_sent_bytes: int) -> Any:
        sent.append(num_sent_bytes)
        return run(collective, output, num_sent_bytes)

    comms.run = counted  # type: ignore[method-assign]
    return sent


def test_two_processes_make_the_update_of_one(tmp_path):
    """Gradients and metrics in float64, with packing, cut trees, losses per trajectory, penalties, copies and shards,
    and a process that has fewer micro-batches than the other, or none."""
    run_in(2, update_own, tmp_path)
    for kind, case in RUNS:
        updater = updater_for(kind, case, None)
        metrics = updater.update(updater.prepare(packed_parts(updater, slice(None))))
        found = torch.load(tmp_path / f"{kind} {case}.pt", weights_only=True)
        expected = gradients(updater.scorer.model)
        assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
        assert largest_difference(expected, found) < 1e-12, (kind, case)
        told = json.loads((tmp_path / f"{kind} {case}.json").read_text())
        assert told == pytest.approx(metrics, rel=1e-9, abs=1e-12), (kind, case)
    check_types(tmp_path)


def check_types(folder: Path) -> None:
    """Gradients are those of a model in one process that holds its weights in the type, up to the rounding of sums, and
    half the bytes are sent where the type has half of them."""
    sent = json.loads((folder / "sent.json").read_text())
    for types, tolerance in TYPES.items():
        model = make_tiny_model("llama")
        updater = updater_of(nn.Module.to(model, DTYPES[types[0]]))
        updater.update(packed_parts(updater, slice(None)))
        expected = gradients(updater.scorer.model)
        found = torch.load(folder / f"{' '.join(types)}.pt", weights_only=True)
        assert found.keys() == expected.keys() and {tensor.dtype for tensor in found.values()} == {torch.float32}
        off = sum(float((found[name] - wanted.float()).square().sum()) for name, wanted in expected.items()) ** 0.5
        off /= sum(float(wanted.float().square().sum()) for wanted in expected.values()) ** 0.5
        assert off < tolerance, types
    whole = sent["same same"]
    assert sent["bfloat16 same"] == whole / 2
    assert whole / 2 < sent["same bfloat16"] < whole and whole / 2 < sent["bfloat16 float32"] < whole


FOUR = {(4,): ("shard",), (2, 2): ("replicate", "shard")}
"""Meshes of four processes, with their dimensions."""

OWN = (slice(3), slice(0), slice(3, 4), slice(0))
"""What each of them has of four trees."""


def update_on_four(processes: DistContext, folder: Path) -> None:
    """The update, from trees as they were dealt and as they are balanced, and the bytes that stay on each process."""
    held = []
    for shape, dimensions in FOUR.items():
        model = make_tiny_model("llama", dtype=torch.float64)
        shard(model, init_device_mesh("cpu", shape, mesh_dim_names=dimensions))
        scorer = Scorer(model, processes=processes)
        updater = replace(updater_of(model, scorer=scorer, **CASES["per trajectory"]), processes=processes)
        grown = packed_parts(updater, OWN[processes.rank])
        (balanced,), told = updater.balance([grown])
        assert 1 <= told["update/imbalance"] < 1.5 < told["update/imbalance_grown"]
        metrics = updater.update(grown if shape == (4,) else balanced)
        kept = [tensor for p in model.parameters() for tensor in (p, p.grad) if tensor is not None]
        held.append([sum(to_local(tensor).nbytes for tensor in kept), sum(tensor.nbytes for tensor in kept)])
        found = {k: full_tensor(g).contiguous() for k, g in gradients(model).items()}
        if processes.is_first:
            torch.save(found, folder / f"{len(shape)}.pt")
            (folder / f"{len(shape)}.json").write_text(json.dumps(metrics))
    (folder / f"held {processes.rank}.json").write_text(json.dumps(held))


def test_four_processes_make_the_update_of_one(tmp_path):
    """Shards over all and copies of shards over two, where two processes have grown no tree; of weights and gradients
    each holds its part."""
    run_in(4, update_on_four, tmp_path)
    updater = updater_of(make_tiny_model("llama", dtype=torch.float64), **CASES["per trajectory"])
    metrics = updater.update(packed_parts(updater, slice(None)))
    every = [json.loads((tmp_path / f"held {rank}.json").read_text()) for rank in range(4)]
    for i, shape in enumerate(FOUR):
        found = torch.load(tmp_path / f"{len(shape)}.pt", weights_only=True)
        assert largest_difference(gradients(updater.scorer.model), found) < 1e-12
        told = json.loads((tmp_path / f"{len(shape)}.json").read_text())
        assert told == pytest.approx(metrics, rel=1e-9, abs=1e-12)
        own, (whole, *_) = zip(*(held[i] for held in every), strict=True)
        # A shard is a number of whole rows.
        assert sum(own) == whole * 4 / shape[-1]
        assert max(own) < 1.1 * whole / shape[-1]


def draw(engine: TorchEngine, seed: int) -> tuple[list[int], list[float]]:
    engine.submit(SampleRequest(0, np.array([3, 4, 5], np.int32), 8, seed))
    results = []
    while not results:
        results = engine.step()
    return results[0].token_ids.tolist(), results[0].logprobs.tolist()


def train_a_step(train_state: TrainState) -> None:
    """One step of the optimiser, from the first half of a sum that the other process has the other half of."""
    for process in range(2):
        if train_state.processes.world_size == 1 or train_state.processes.rank == process:
            ids, places = torch.arange(6) + process, torch.arange(6)
            context = TreeAttention([0, 6], torch.full_like(ids, 6), places)
            inputs = {"input_ids": ids[None], "position_ids": places[None], "attention_context": context}
            train_state.model(**inputs, use_cache=False).logits.square().sum().backward()
    train_state.optimizer.step()
    train_state.optimizer.zero_grad()
    train_state.schedule.step()


def make_train_state(processes: DistContext = SINGLE_PROCESS) -> TrainState:
    model = make_tiny_model("llama")
    if processes.world_size > 1:
        shard(model, init_device_mesh("cpu", (2,)))
    return TrainState(model, *make_optimizer(model, OptimSettings(lr=1e-2)), processes)


def serve_and_keep(processes: DistContext, folder: Path) -> None:
    """Before and after an update: what the engine draws, each process for itself, and what is saved."""
    train_state = make_train_state(processes)
    model = train_state.model
    assert is_sharded(model)
    with unsharded(model):
        engine = TorchEngine(model, [2])
    for number in range(2):
        with unsharded(model), unsharded(model):
            # The second process draws more often: nobody waits for anybody.
            drawn = [draw(engine, seed) for seed in range(3 + processes.rank)]
            engine.sleep()
            copies = {k: v.clone() for k, v in plain_weights(model).items()}
        plain = gathered_copy(model)  # type: ignore[arg-type]
        assert all(torch.equal(copies[k], v) for k, v in plain.state_dict().items())
        if processes.is_first:
            torch.save(copies, folder / f"weights {number}.pt")
            (folder / f"drawn {number}.json").write_text(json.dumps(drawn))
        train_a_step(train_state)


def test_a_divided_model_is_served_whole(tmp_path):
    """The engine that was made over it draws the same letters from it before and after an update, and its weights,
    gathered or built anew, are those of a model in one process."""
    run_in(2, serve_and_keep, tmp_path)
    train_state = make_train_state()
    engine = TorchEngine(train_state.model, [2])
    texts = []
    for number in range(2):
        expected = [draw(engine, seed) for seed in range(3)]
        engine.sleep()
        weights = torch.load(tmp_path / f"weights {number}.pt", weights_only=True)
        state = train_state.model.state_dict()
        assert weights.keys() == state.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
        drawn = json.loads((tmp_path / f"drawn {number}.json").read_text())
        for (ids, logprobs), (found_ids, found_logprobs) in zip(expected, drawn, strict=True):
            assert found_ids == ids
            assert found_logprobs == pytest.approx(logprobs, abs=1e-3)
        texts.append([ids for ids, _ in expected])
        train_a_step(train_state)
    assert texts[0] != texts[1], "the update changed what is drawn"

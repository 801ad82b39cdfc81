"""Memory that runs out in one of two processes: both make the update with smaller micro-batches, as one would."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from tests.learn.test_sharding import packed_parts
from tests.learn.test_update import gradients, largest_difference, updater_of
from tests.models import make_tiny_model
from tests.processes import run_in
from treepo.distributed import DistContext
from treepo.learn import updater as updater_module
from treepo.learn.scoring import Scorer
from treepo.learn.updater import Updater
from treepo.model.fsdp import full_tensor, shard
from treepo.model.passes import Gather, Scatter

ROOM = 80
"""Tokens of a micro-batch to begin with, which the trees fill."""

MESHES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "shards": ((2,), ("shard",)),
    "copies": ((2, 1), ("replicate", "shard")),
}


class Failing:
    """Raises when it is called for the `count`-th time; afterwards it has had its day."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, *_: Any) -> None:
        self.count -= 1
        if self.count == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@contextmanager
def replaced(owner: Any, name: str, failing: Failing, is_after: bool = False) -> Iterator[None]:
    """A method or function that fails before it does its work, or after."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not is_after:
            failing()
        result = original(*args, **kwargs)
        if is_after:
            failing()
        return result

    setattr(owner, name, wrapped)
    yield
    setattr(owner, name, original)


@contextmanager
def in_forward(updater: Updater, count: int) -> Iterator[None]:
    """Within the last layer, when the weights of all have been gathered."""
    handle = updater.scorer.model.model.layers[-1].mlp.register_forward_hook(Failing(count))
    yield
    handle.remove()


@contextmanager
def in_backward(updater: Updater, count: int) -> Iterator[None]:
    """Within the first layer, when gradients of the last have been summed."""
    failing = Failing(count)

    def on_output(_module: object, _inputs: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(failing)

    handle = updater.scorer.model.model.layers[0].mlp.register_forward_hook(on_output)
    yield
    handle.remove()


PLACES: dict[str, Callable[[Updater], Any]] = {
    "before the first pass": lambda _: replaced(updater_module, "collate", Failing(1)),
    "before a forward": lambda updater: replaced(type(updater.scorer), "__call__", Failing(2)),
    "in a forward": lambda updater: in_forward(updater, 2),
    "after a forward": lambda updater: replaced(type(updater.scorer), "__call__", Failing(2), is_after=True),
    "in a backward": lambda updater: in_backward(updater, 1),
    "in a later backward": lambda updater: in_backward(updater, 2),
    "where weights are gathered": lambda _: replaced(Gather, "allocate", Failing(8)),
    "where gradients are summed": lambda _: replaced(Scatter, "allocate", Failing(3)),
    "where a shard of the sum is kept": lambda _: replaced(Scatter, "allocate", Failing(4)),
}


def places_of(mesh: str) -> dict[str, Callable[[Updater], Any]]:
    """Copies are not gathered."""
    return {name: at for name, at in PLACES.items() if mesh == "shards" or name != "where weights are gathered"}


def updater_for(processes: DistContext | None, mesh: str) -> Updater:
    model, other = (make_tiny_model("llama", dtype=torch.float64, seed=seed) for seed in (0, 1))
    scorer = Scorer(model)
    if processes is not None:
        scorer = replace(scorer, processes=processes)
        shape, names = MESHES[mesh]
        found = init_device_mesh("cpu", shape, mesh_dim_names=names)
        shard(model, found)
        shard(other, found, is_trained=False)
    updater = replace(updater_of(model, ROOM, scorer=scorer), processes=scorer.processes, reference=other)
    return replace(updater, recompute_old_logprobs=True)


def update_with_a_failure(processes: DistContext, folder: Path, mesh: str) -> None:
    """Twice, since what failed must leave nothing behind."""
    for place, at in places_of(mesh).items():
        updater = updater_for(processes, mesh)
        own = slice(2) if processes.is_first else slice(2, None)
        parts = updater.prepare(packed_parts(updater, own))
        if processes.is_first:
            first = updater.update(parts)
        else:
            with at(updater):
                first = updater.update(parts)
        assert updater.memory_limit.num_oom == 1, (place, processes.rank)
        metrics = updater.update(parts)
        assert first == pytest.approx(metrics, rel=1e-12), place
        found = {k: full_tensor(g).contiguous() for k, g in gradients(updater.scorer.model).items()}
        if processes.is_first:
            torch.save(found, folder / f"{place}.pt")
            (folder / f"{place}.json").write_text(json.dumps(metrics | {"max_tokens": updater.max_tokens}))


@pytest.mark.parametrize("mesh", MESHES)
def test_both_go_on_with_smaller_micro_batches(mesh: str, tmp_path: Path) -> None:
    """It ended the run: the other process waited in the middle of its own pass. Wherever it happens, gradients and
    metrics are those of one process, and a second update is not disturbed by the first."""
    run_in(2, update_with_a_failure, tmp_path, mesh)
    for place in places_of(mesh):
        told = json.loads((tmp_path / f"{place}.json").read_text())
        max_tokens = told.pop("max_tokens")
        assert max_tokens < ROOM
        alone = replace(updater_for(None, mesh), max_tokens_per_micro_batch=max_tokens)
        metrics = alone.update(alone.prepare(packed_parts(alone, slice(None))))
        assert told == pytest.approx(metrics, rel=1e-9, abs=1e-12), place
        found = torch.load(tmp_path / f"{place}.pt", weights_only=True)
        assert largest_difference(gradients(alone.scorer.model), found) < 1e-12, place


def score_with_a_failure(processes: DistContext, folder: Path) -> None:
    """What is known before an update: passes without gradients, of the policy and of the reference."""
    updater = updater_for(processes, "shards")
    own = packed_parts(updater, slice(2) if processes.is_first else slice(2, None))
    if not processes.is_first:
        handle = updater.reference.model.layers[-1].mlp.register_forward_hook(Failing(1))
    prepared = updater.prepare(own)
    assert updater.memory_limit.num_oom == 1
    again = updater.prepare(own)
    for one, other in zip(prepared, again, strict=True):
        np.testing.assert_allclose(one.ref_logprobs, other.ref_logprobs, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.recomputed_logprobs, other.recomputed_logprobs, rtol=0, atol=1e-12)
    if not processes.is_first:
        handle.remove()
    (folder / f"done-{processes.rank}").touch()


def test_passes_without_gradients(tmp_path: Path) -> None:
    run_in(2, score_with_a_failure, tmp_path)
    assert len(list(tmp_path.glob("done-*"))) == 2


def run_out_for_good(processes: DistContext, folder: Path) -> None:
    """The second process has no memory for anything but a placeholder."""
    updater = updater_for(processes, "shards")
    own = packed_parts(updater, slice(2) if processes.is_first else slice(2, None))
    prepared = updater.prepare(own)
    original = Scorer.__call__

    def cramped(self: Scorer, batch: Any, entropy_has_grad: bool = False) -> Any:
        if processes.rank == 1 and batch.packed.num_tokens > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, batch, entropy_has_grad)

    Scorer.__call__ = cramped  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(
        MemoryError, match=r"train.max_tokens_per_micro_batch: out of memory at .* the longest trajector"
    ):
        updater.update(prepared)
    processes.all_gather(0)
    (folder / f"done-{processes.rank}").touch()


def test_below_the_longest_trajectory_of_all_both_end_with_the_same_line(tmp_path: Path) -> None:
    run_in(2, run_out_for_good, tmp_path)
    assert len(list(tmp_path.glob("done-*"))) == 2

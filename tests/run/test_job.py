"""A run of two processes is the run of one, and can be resumed when one of them was killed."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import free_port, join_job
from tests.runs import die, judge_length, start, untimed_metrics, write_sets
from treepo.cli.main import main
from treepo.grow.sampler import TreeSampler
from treepo.learn.scoring import Scorer
from treepo.learn.updater import Updater
from treepo.verify.task import VerifiedTask

SETTINGS = {
    "train.num_steps": 4,
    "train.prompts_per_step": 3,
    "train.save_trees_every": 2,
    "dynamic_sampling.max_rounds": 2,
    "optim.lr": 1e-3,
    "tree.width": 4,
    "tree.depth": 2,
    "tree.segment_len": 8,
    "eval.num_problems": 3,
    "eval.every": 2,
    "eval.keep_best": True,
    "checkpoint.every": 1,
    "checkpoint.save_model": True,
}

OWN_ENGINES = ("engine/steps", "engine/utilisation", "engine/prefilled", "engine/cached")
"""Figures of engines of which there are two, each with a cache of its own."""

BALANCE = ("update/imbalance_grown", "update/imbalance")
"""Figures of several processes alone."""


@pytest.fixture(scope="module")
def options(chain_model, tmp_path_factory) -> list[str]:
    settings = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value).lower())]
    return ["--model.path", str(chain_model), *write_sets(tmp_path_factory.mktemp("sets")), *settings]


def become(rank: int, port: int, owner: type, name: str, count: int, action: Callable[[], None] | None) -> None:
    """What a process of a job does first: the second one sees to it that something happens to it when a method is
    called for the `count`-th time."""
    join_job(rank, 2, port)
    original, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if rank == 1 and action is not None and len(calls) == count:
            action()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def terminate() -> None:
    """As a scheduler and torchrun do, one soon after the other."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


def run_job(
    args: list[str],
    log: Path,
    at: tuple[type, str, int] = (Updater, "_step", 0),
    action: Callable[[], None] | None = None,
) -> list[int | None]:
    """The exit codes of two processes; when one is killed, nobody tells the other. at, action: see `become`."""
    port = free_port()
    processes = [start(args, log / f"log-{rank}", partial(become, rank, port, *at, action)) for rank in (0, 1)]
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def two(options, tmp_path_factory) -> Path:
    """The run of two processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("two")
    assert run_job(["train", *options, "--out", str(folder / "run")], folder) == [0, 0], (
        folder / "log-1.err"
    ).read_text()
    return folder / "run"


def test_two_processes_train_as_one(options, two, tmp_path, monkeypatch):
    """The same trees and metrics but for rounding, whichever process grew them; what is kept is kept once."""
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)
    out = tmp_path / "run"
    assert main(["train", *options, "--out", str(out)]) == 0
    for one, other in zip(untimed_metrics(out), untimed_metrics(two), strict=True):
        assert one.keys() == other.keys() - set(BALANCE)
        for name in one.keys() - set(OWN_ENGINES):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
    assert sum(f.get("problems/rounds", 0) for f in untimed_metrics(two)) > 4, "some steps grew a second round"
    for folder in ("model", "best"):
        one, other = (load_file(path / folder / "model.safetensors") for path in (out, two))
        assert one.keys() == other.keys()
        assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4
        assert (out / folder / "config.json").read_text() == (two / folder / "config.json").read_text()
    names = [sorted(p.name for p in path.rglob("*") if "shard-" not in p.name) for path in (out, two)]
    assert names[0] == names[1]
    assert (two.parent / "log-1.out").read_text() == ""


def bits(out: Path) -> dict[str, object]:
    """Of weights, trees and the last checkpoint, whose tensors may lie in any order in their files."""
    shards = sorted(out.glob("checkpoints/*/shard-*"))[-2:]
    tensors = {
        f"{path.relative_to(out)} {name}": tensor.numpy().tobytes()
        for path in [*shards, out / "model" / "model.safetensors"]
        for name, tensor in load_file(path).items()
    }
    return tensors | {path.name: path.read_bytes() for path in out.glob("trees/*")}


def test_a_run_goes_on_when_a_process_was_killed(options, two, tmp_path):
    """The other one ends with a message that says how; resumed, it is the run that nothing happened to, bit for bit."""
    out = tmp_path / "run"
    codes = run_job(["train", *options, "--out", str(out)], tmp_path, (Updater, "_step", 5), die)
    assert codes == [1, -signal.SIGKILL]
    said = (tmp_path / "log-0.err").read_text()
    assert "treepo: another process of this job ended or cannot be reached" in said
    assert f"to go on: treepo train --resume {out}" in said
    assert 2 <= len(untimed_metrics(out)) < 5
    assert run_job(["train", "--resume", str(out)], tmp_path) == [0, 0], (tmp_path / "log-1.err").read_text()
    assert untimed_metrics(out) == untimed_metrics(two)
    one, other = bits(out), bits(two)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_a_signal_to_one_process_stops_both(options, tmp_path):
    """While trees are grown; the last complete step has a checkpoint that nothing had asked for."""
    out = tmp_path / "run"
    rare = list(options)
    rare[rare.index("--checkpoint.every") + 1] = "0"
    assert run_job(["train", *rare, "--out", str(out)], tmp_path, (TreeSampler, "grow", 5), terminate) == [1, 143]
    assert (
        "process 1 could not go on: stopped by SIGTERM; to go on: treepo train" in (tmp_path / "log-0.err").read_text()
    )
    last = untimed_metrics(out)[-1]["step"]
    assert f"Stopped after step {last:.0f}." in (tmp_path / "log-0.out").read_text()
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{last:06.0f}"]


def request_stop() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_request_to_one_process_stops_both_after_the_step(options, two, tmp_path):
    """With a checkpoint and exit code 0; the model of the checkpoint is whole, and the run goes on as if nothing
    happened."""
    out = tmp_path / "run"
    args = ["train", *options, "--out", str(out)]
    assert run_job(args, tmp_path, (Updater, "_step", 3), request_stop) == [0, 0], (tmp_path / "log-0.err").read_text()
    last = int(untimed_metrics(out)[-1]["step"])
    assert 0 < last < 4 and not (out / "model").exists()
    assert f"Stopped after step {last} (SIGUSR1). To go on:" in (tmp_path / "log-0.out").read_text()
    assert main(["export", f"{out}@{last}", str(tmp_path / "exported")]) == 0
    one, other = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "exported", out / "models" / f"step-{last:06d}")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert run_job(["train", "--resume", str(out)], tmp_path) == [0, 0], (tmp_path / "log-1.err").read_text()
    assert untimed_metrics(out) == untimed_metrics(two)


def test_a_folder_that_is_used_is_refused_by_both(options, two, tmp_path):
    """One line each; the second process used to end in a traceback."""
    assert run_job(["train", *options, "--out", str(two)], tmp_path) == [2, 1]
    first, second = ((tmp_path / f"log-{rank}.err").read_text() for rank in (0, 1))
    line = f"out: {str(two)!r} already holds files; give a new folder"
    assert f"treepo: {line}\n" in first and f"treepo (process 1): process 0 could not go on: {line}\n" in second
    assert "Traceback" not in first + second


def test_what_torchrun_must_not_be_asked_for(options, tmp_path, monkeypatch, capsys):
    """One line each, before the processes meet."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    for option, message in (
        (("--model.device", "cuda:1"), "model.device: with several processes each takes a GPU of its own"),
        (("--processes.shard_size", "2"), "processes.shard_size: must divide the 3 processes, got 2"),
    ):
        assert main(["train", *options, *option, "--out", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err.startswith(f"treepo: {message}")
    assert os.environ["WORLD_SIZE"] == "3" and not (tmp_path / "run").exists()


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_memory_that_runs_out_in_an_update_of_one_process(options, two, tmp_path):
    """It ended the run. Both go on with half as many tokens at a time, up to rounding as if nothing had happened."""
    out = tmp_path / "run"
    args = ["train", *options, "--out", str(out)]
    assert run_job(args, tmp_path, (Scorer, "__call__", 4), out_of_memory) == [0, 0], (
        tmp_path / "log-1.err"
    ).read_text()
    said = (tmp_path / "log-0.out").read_text()
    assert said.count("out of memory: train.max_tokens_per_micro_batch is") == 1
    metrics = untimed_metrics(out)
    assert sum(m.get("update/num_oom", 0) for m in metrics) == 1
    for one, other in zip(metrics, untimed_metrics(two), strict=True):
        for name in one.keys() - {*OWN_ENGINES, "update/num_oom", "update/max_tokens_per_micro_batch"}:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name

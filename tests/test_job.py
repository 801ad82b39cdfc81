"""A run of two processes is the run of one, and goes on when one of them was killed."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.processes import free_port, join_job
from tests.runs import die, figures, judge_length, start, write_sets
from treepo.cli import main
from treepo.learn.update import Updater
from treepo.task.checked import CheckedTask

SETTINGS = {
    "train.num_steps": 4,
    "train.problems_per_step": 3,
    "train.trees_every": 2,
    "dynamic_sampling.max_rounds": 2,
    "optim.lr": 1e-3,
    "tree.width": 4,
    "tree.depth": 2,
    "tree.segment_len": 8,
    "eval.num_problems": 3,
    "eval.every": 2,
    "eval.keep_best": True,
    "checkpoint.every": 1,
}

OWN_ENGINES = ("engine/steps", "engine/utilisation")
"""Figures of engines of which there are two."""


@pytest.fixture(scope="module")
def options(chain_model, tmp_path_factory) -> list[str]:
    settings = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value).lower())]
    return ["--model.path", str(chain_model), *write_sets(tmp_path_factory.mktemp("sets")), *settings]


def become(rank: int, port: int, dying: int | None) -> None:
    """What a process of a job does first. dying: the update in the middle of which the second one is killed."""
    join_job(rank, 2, port)
    if rank != 1 or dying is None:
        return
    original, calls = Updater._step, []

    def counted(updater: Updater) -> None:
        calls.append(updater)
        (die if len(calls) == dying else original)(updater)

    Updater._step = counted


def run_job(args: list[str], log: Path, dying: int | None = None) -> list[int | None]:
    """The exit codes of two processes; when one was killed, the other is not told."""
    port = free_port()
    processes = [start(args, log / f"log-{rank}", partial(become, rank, port, dying)) for rank in (0, 1)]
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
    """The same trees and figures but for rounding, whichever process grew them; what is kept is kept once."""
    monkeypatch.setattr(CheckedTask, "judge", judge_length)
    out = tmp_path / "run"
    assert main(["train", *options, "--out", str(out)]) == 0
    for one, other in zip(figures(out), figures(two), strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - set(OWN_ENGINES):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
    assert sum(f.get("problems/rounds", 0) for f in figures(two)) > 4, "some steps grew a second round"
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
    """The other one ends with a message that says how; resumed, the run is the one that nothing happened to, bit by bit."""
    out = tmp_path / "run"
    codes = run_job(["train", *options, "--out", str(out)], tmp_path, dying=5)
    assert codes == [1, -signal.SIGKILL]
    said = (tmp_path / "log-0.err").read_text()
    assert "treepo: another process of this job ended or cannot be reached" in said
    assert f"to go on: treepo train --resume {out}" in said
    assert 2 <= len(figures(out)) < 5
    assert run_job(["train", "--resume", str(out)], tmp_path) == [0, 0], (tmp_path / "log-1.err").read_text()
    assert figures(out) == figures(two)
    one, other = bits(out), bits(two)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_what_torchrun_must_not_be_asked_for(options, tmp_path, monkeypatch, capsys):
    """One line each, before the processes meet."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    for option, message in (
        (("--model.device", "cuda:1"), "model.device: with several processes each takes a GPU of its own"),
        (("--processes.shard_size", "2"), "processes.shard_size must divide the 3 processes, got 2"),
    ):
        assert main(["train", *options, *option, "--out", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err.startswith(f"treepo: {message}")
    assert os.environ["WORLD_SIZE"] == "3" and not (tmp_path / "run").exists()

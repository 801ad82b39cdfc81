"""Runs whose trees grow ahead over servers: stopped and resumed they are the runs that were not."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.server.stub import StubServer
from tests.models import save_tiny_model
from tests.runs import assert_same_run, judge_length, untimed_metrics, write_sets
from treepo.cli.main import main
from treepo.errors import EngineError
from treepo.learn.rollout import RolloutAhead
from treepo.learn.updater import Updater
from treepo.model.policy import load_policy
from treepo.report.trees import read_trees
from treepo.run.ahead import TREES
from treepo.verify.task import VerifiedTask

SETTINGS = {
    "train.num_steps": 3,
    "train.prompts_per_step": 4,
    "train.save_trees_every": 1,
    "train.overlap": 1,
    "train.recompute_old_logprobs": "true",
    "train.importance_cap": 2.0,
    "optim.lr": 1e-3,
    "tree.width": 4,
    "tree.depth": 2,
    "tree.segment_len": 8,
    "eval.num_problems": 1,
    "eval.every": 2,
    "checkpoint.every": 3,
    "engine.kind": "servers",
}


@pytest.fixture(scope="module", autouse=True)
def judged_by_length() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VerifiedTask, "verify", judge_length)
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Of a run of three steps over a stub of a server."""
    model = save_tiny_model(tmp_path_factory.mktemp("model"))
    stub = StubServer(load_policy(str(model)).model)
    given = SETTINGS | {"servers.urls": f'["{stub.url}"]'}
    settings = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    yield ["--model.path", str(model), *write_sets(tmp_path_factory.mktemp("sets")), *settings]
    stub.close()


@pytest.fixture(scope="module")
def whole(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *options, "--out", str(out)]) == 0
    return out


def test_trees_carry_the_weights_that_sampled_them(whole: Path) -> None:
    """The first step's are of the initial weights, those of every later step of the weights before the last update."""
    for step, version in ((1, 0), (2, 0), (3, 1)):
        kept = read_trees(whole / "trees" / f"step-{step:06d}.parquet")
        assert [one.tree.weights_version for one in kept] == [version] * 4
    assert [m.get("mismatch/lag") for m in untimed_metrics(whole)] == [None, 0, 1, 1]


def wait_in_vain(self: RolloutAhead, *args: object) -> None:
    """As if a signal came while a step waits for its trees, or an engine failed."""
    raise EngineError("gone")


def test_a_run_that_was_stopped_is_the_run_that_was_not(
    whole: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal between the updates of step 2, whose checkpoint has the trees that grow meanwhile; and again where
    step 3 waits for them."""
    out, count = tmp_path / "run", []
    update = Updater.update

    def signalled(self: Updater, trees: list) -> dict[str, float]:
        count.append(trees)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, trees)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "update", signalled)
        assert main(["train", *options, "--out", str(out)]) == 128 + signal.SIGTERM
    saved = out / "checkpoints" / "step-000002" / TREES
    assert [one.tree.weights_version for one in read_trees(saved)] == [1] * 4
    with monkeypatch.context() as patch:
        patch.setattr(RolloutAhead, "result", wait_in_vain)
        assert main(["train", "--resume", str(out)]) == 2
    assert saved.exists()
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)

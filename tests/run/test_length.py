"""Epochs in steps, early stopping, time limits and requests to stop."""

import os
import signal
from pathlib import Path

import pytest

from tests.run.test_export import SMALL
from tests.runs import assert_same_run, judge_length, untimed_metrics, write_sets
from treepo.cli.main import main
from treepo.config.load import read_recipe, resolve
from treepo.data.datasets import Dataset, DatasetTask
from treepo.data.problem import Problem
from treepo.distributed import SINGLE_PROCESS
from treepo.errors import SettingError
from treepo.learn.checkpoint import steps_in
from treepo.learn.updater import Updater
from treepo.report.live.screen import METRICS
from treepo.report.live.state import MetricsFollower, RunFollower
from treepo.run import length
from treepo.run.build import Run
from treepo.run.length import Limits, with_epochs
from treepo.tasks.chain_sums import ChainSums, make_chain_tokenizer
from treepo.verify.task import VerifiedTask


@pytest.fixture(autouse=True)
def judged_by_length(monkeypatch):
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)


@pytest.fixture
def options(chain_model, tmp_path) -> list[str]:
    """Of a run of ten problems, four a step, without models at its checkpoints."""
    given = SMALL | {"checkpoint.save_model": "false"}
    settings = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return ["--model.path", str(chain_model), *write_sets(tmp_path), *settings]


def steps_of(out: Path) -> list[int]:
    return [int(metrics["step"]) for metrics in untimed_metrics(out)]


def num_steps(num_epochs: float, num_problems: int, **sections: dict[str, object]) -> int:
    problems = tuple(Problem(str(i), str(i), (1,), "") for i in range(num_problems))
    train = {"num_epochs": num_epochs, "prompts_per_step": 30} | sections.pop("train", {})
    config = resolve({"train": train, **sections})
    resolved = with_epochs(config, DatasetTask((Dataset("d", problems),), ())).train
    assert resolved.num_epochs == 0
    return resolved.num_steps


def test_epochs_are_whole_steps(caplog):
    """Rounded up, and exactly: 0.1 x 300 / 30 is a little more than 1 in floats."""
    caplog.set_level("INFO")
    assert num_steps(2, 300) == 20
    assert "One epoch is 10 steps (300 problems, 30 a step); the run has 20, 2 epochs." in caplog.text
    assert num_steps(2, 301) == 21
    assert num_steps(0.1, 300) == 1
    assert num_steps(0.1, 301) == 2
    assert num_steps(1, 300, dynamic_sampling={"max_rounds": 2, "max_factor": 2.5}) == 4
    assert num_steps(0, 300, train={"num_steps": 7}) == 7
    assert "the run has 7, 0.7 epochs." in caplog.text
    assert num_steps(0, 300, branching={"use": "Planned", "tokens_per_step": 9}) == 100
    assert "One epoch is 300 problems; a step has as many as branching.tokens_per_step buys." in caplog.text


def test_the_built_in_task_has_no_epochs():
    task = ChainSums(make_chain_tokenizer(), 0)
    with pytest.raises(SettingError, match=r"^train.num_epochs: the built-in task has no epochs"):
        with_epochs(resolve({"train": {"num_epochs": 1}}), task)
    assert with_epochs(resolve({}), task) == resolve({})


def test_a_run_of_epochs_is_that_of_its_steps_and_can_be_extended(options, tmp_path, capsys):
    """Ten problems, four a step: one and a half epochs are four steps, which its folder says."""
    out = tmp_path / "run"
    assert main(["train", *options, "--train.num_epochs", "1.5", "--out", str(out)]) == 0
    assert "One epoch is 2.5 steps (10 problems, 4 a step); the run has 4, 1.6 epochs." in capsys.readouterr().out
    assert steps_of(out) == [0, 1, 2, 3, 4]
    assert read_recipe(out / "config.toml")["train"]["num_steps"] == 4
    assert main(["train", "--resume", str(out), "--train.num_epochs", "2"]) == 0
    assert steps_of(out) == [0, 1, 2, 3, 4, 5]
    assert read_recipe(out / "config.toml")["train"]["num_steps"] == 5


def score(patch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """What the next evaluations find."""
    left = iter(scores)
    patch.setattr(Run, "evaluate", lambda *_: {"eval/avg": next(left), "eval/greedy": 0.0})


def test_a_run_stops_after_evaluations_without_a_better_one(options, tmp_path, monkeypatch):
    """An equal score is no better one. It ends as a whole run does, and goes on when asked; the count is resumed."""
    out, more = tmp_path / "run", ["--train.num_steps", "9", "--eval.every", "1", "--eval.patience", "2"]
    args = [*options[: options.index("--train.num_steps")], *options[options.index("--train.num_steps") + 2 :], *more]
    score(monkeypatch, [0.5, 0.2, 0.6, 0.6, 0.1])
    assert main(["train", *args, "--out", str(out)]) == 0
    assert steps_of(out) == [0, 1, 2, 3, 4]
    assert [m["eval/num_not_better"] for m in untimed_metrics(out)] == [0, 1, 0, 1, 2]
    assert (out / "model").is_dir() and (out / "report.html").is_file()
    state, _ = RunFollower(out, MetricsFollower(out / "metrics.jsonl", METRICS)).read()
    assert state.is_complete
    # Nothing is left to do.
    assert main(["train", "--resume", str(out)]) == 0
    assert steps_of(out) == [0, 1, 2, 3, 4]
    score(monkeypatch, [0.2, 0.7, 0.1, 0.1, 0.1])
    assert main(["train", "--resume", str(out), "--eval.patience", "3"]) == 0
    assert steps_of(out) == [0, 1, 2, 3, 4, 5]
    assert untimed_metrics(out)[-1]["eval/num_not_better"] == 3


def test_patience_without_evaluations_is_refused():
    """It would wait without end."""
    for settings in ({"patience": 2}, {"patience": 2, "every": 1, "num_problems": 0}):
        with pytest.raises(SettingError, match=r"^eval.patience: needs evaluations during training"):
            resolve({"eval": settings})


def test_a_request_to_stop_waits_for_the_step_and_costs_nothing(options, tmp_path, monkeypatch, capfd):
    """SIGUSR1 while the third step updates: it is finished, with a checkpoint, and the exit code is 0."""
    whole, out, update, calls = tmp_path / "whole", tmp_path / "run", Updater.update, []
    assert main(["train", *options, "--out", str(whole)]) == 0

    def signalled(self, batch):
        calls.append(batch)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "update", signalled)
        assert main(["train", *options, "--out", str(out)]) == 0
    captured = capfd.readouterr()
    assert f"Stopped after step 3 (SIGUSR1). To go on:  treepo train --resume {out}" in captured.out
    assert captured.err == "treepo: stopping after the step in progress\n"
    assert steps_of(out) == [0, 1, 2, 3] and steps_in(out / "checkpoints")[-1] == 3
    assert not (out / "model").exists()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


def test_no_step_begins_that_would_end_too_late(monkeypatch):
    """After steps of 10, 30 and 10 minutes in a limit of one hour and a half, 50 minutes have gone: 30 more fit, and
    after them no others."""
    times = iter([0.0, 0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr(length, "monotonic", lambda: 60 * next(times))
    limits = Limits(1.5, SINGLE_PROCESS)
    assert [limits.stop_before_step() for _ in range(4)] == ["", "", "", ""]
    assert limits.stop_before_step() == "train.max_hours = 1.5"


def test_a_run_out_of_time_can_be_resumed(options, tmp_path, capfd):
    """The evaluation before training is already over the limit."""
    out = tmp_path / "run"
    assert main(["train", *options, "--train.max_hours", "1e-9", "--out", str(out)]) == 0
    captured = capfd.readouterr()
    assert "Stopped" not in captured.out and not (out / "metrics.jsonl").exists()
    assert main(["train", "--resume", str(out), "--train.max_hours", "1"]) == 0
    assert steps_of(out) == [0, 1, 2, 3, 4]

"""A run that was stopped or killed and resumed is the run that was not, bit for bit."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import treepo.learn.checkpoint as store_module
from tests.runs import assert_same_run, die, finish, judge_length, last_state, untimed_metrics, write_sets
from treepo.cli.main import main
from treepo.errors import EngineError
from treepo.learn.train_state import seed_random
from treepo.learn.trainer import Trainer
from treepo.learn.updater import Updater
from treepo.report.run_log import MetricsLog
from treepo.verify.task import VerifiedTask

SETTINGS = {
    "train.num_steps": 6,
    "train.prompts_per_step": 4,
    "train.save_trees_every": 3,
    "optim.lr": 1e-3,
    "tree.width": 4,
    "tree.depth": 2,
    "tree.segment_len": 8,
    "eval.num_problems": 2,
    "eval.every": 3,
    "checkpoint.every": 2,
}


@pytest.fixture(autouse=True)
def judged_by_length(monkeypatch):
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)


@pytest.fixture(scope="module")
def options(chain_model, tmp_path_factory) -> list[str]:
    """Of a run of six steps on ten problems, four a step."""
    settings = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
    return ["--model.path", str(chain_model), *write_sets(tmp_path_factory.mktemp("sets")), *settings]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    """The run that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VerifiedTask, "verify", judge_length)
        assert main(["train", *options, "--out", str(out)]) == 0
    assert [f["step"] for f in untimed_metrics(out)] == list(range(7))
    assert sum(f.get("problems/trained", 0) for f in untimed_metrics(out)) > 8
    # Every second step, and the third, of the first good evaluation.
    timed = [m["step"] for m in MetricsLog(out / "metrics.jsonl").read() if "time/checkpoint_s" in m]
    assert set(timed) >= {2, 4, 6}
    return out


def do_at(owner: object, name: str, count: int, action: Callable[..., object]) -> None:
    """Call `action` instead of a method or function when it is called for the `count`-th time, from 1."""
    original, calls = getattr(owner, name), []

    def replaced(*args, **kwargs):
        calls.append(name)
        return (action if len(calls) == count else original)(*args, **kwargs)

    setattr(owner, name, replaced)


def write_half_a_line(log: MetricsLog, step: int, metrics: dict[str, float]) -> None:
    """What is left if the process ends within a write."""
    with log.path.open("a") as file:
        file.write(f'{{"step": {step}, "rew')
    die()


def die_in_updates() -> None:
    """In the second update of the third step: the first one has changed the weights."""
    do_at(Updater, "update", 6, die)


def die_in_metrics() -> None:
    """In the line of step 4, when the checkpoint of step 2 was the last."""
    do_at(MetricsLog, "append", 2, write_half_a_line)


def die_in_a_checkpoint() -> None:
    """When the tensors are written and the manifest is not."""
    do_at(store_module, "write_manifest", 1, die)


def die_before_pruning() -> None:
    """When a checkpoint has its name."""
    do_at(store_module.CheckpointStore, "_prune", 1, die)


def test_a_run_killed_again_and_again_is_the_run_that_was_not(whole, options, tmp_path):
    """Four times by SIGKILL, at its worst moments; also across the border of an epoch."""
    out = tmp_path / "run"
    deaths = [die_in_updates, die_in_metrics, die_in_a_checkpoint, die_before_pruning]
    args = ["train", *options, "--out", str(out)]
    for death in deaths:
        assert finish(args, tmp_path / "log", death) == -signal.SIGKILL, (tmp_path / "log.err").read_text()
        args = ["train", "--resume", str(out)]
    assert not (out / "model").exists()
    assert finish(args, tmp_path / "log") == 0, (tmp_path / "log.err").read_text()
    assert_same_run(whole, out)
    assert not list(out.rglob("*.partial"))


def stop_at(patch: pytest.MonkeyPatch, owner: type, name: str, count: int, signum: int) -> None:
    """Send a signal to this process when a method is called for the `count`-th time."""
    original, calls = getattr(owner, name), []

    def signalled(self, *args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signum)
        return original(self, *args, **kwargs)

    patch.setattr(owner, name, signalled)


@pytest.mark.parametrize(
    ("method", "count", "signum", "last_step"),
    [
        # The first call judges what is held out; the fourth is of step 3.
        ((VerifiedTask, "verify"), 5, signal.SIGINT, 2),
        ((Updater, "update"), 5, signal.SIGTERM, 3),
    ],
    ids=["while growing", "between updates"],
)
def test_a_signal_stops_where_nothing_is_half_done(
    whole, options, tmp_path, monkeypatch, capfd, method, count, signum, last_step
):
    """A step that only grows is given up; one that has begun to change the weights is finished."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, *method, count, signum)
        assert main(["train", *options, "--out", str(out)]) == 128 + signum
    captured = capfd.readouterr()
    assert captured.err.endswith(f"treepo: stopped by {signal.Signals(signum).name}\n")
    assert f"Stopped after step {last_step}. To go on:  treepo train --resume {out}" in captured.out
    assert [f["step"] for f in untimed_metrics(out)] == list(range(last_step + 1))
    assert last_state(out)["step"] == f"step-{last_step:06d}"
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


def test_a_second_signal_stops_at_once(whole, options, tmp_path, monkeypatch):
    """Even between updates, where the first one waits; then no checkpoint is written, and the one before counts."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, Updater, "update", 5, signal.SIGTERM)
        stop_at(patch, Updater, "loss_sum", 5, signal.SIGINT)
        assert main(["train", *options, "--out", str(out)]) == 130
    assert [f["step"] for f in untimed_metrics(out)] == [0, 1, 2]
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


@pytest.mark.parametrize("extra", [{}, {"lora.rank": 2}], ids=["all weights", "adapters"])
def test_a_resumed_run_stays_near_the_model_it_began_with(options, tmp_path, monkeypatch, extra):
    """The reference of the KL penalty is the initial model, not the one that the checkpoint holds."""
    given = {"penalties.kl_coef": 0.5, "eval.num_problems": 0, "train.num_steps": 3} | extra
    args = ["train", *options]
    for name, value in given.items():
        args += [f"--{name}", str(value)] if f"--{name}" not in args else []
        args[args.index(f"--{name}") + 1] = str(value)
    assert main([*args, "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, VerifiedTask, "verify", 3, signal.SIGINT)
        assert main([*args, "--out", str(tmp_path / "run")]) == 130
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert untimed_metrics(tmp_path / "run")[-1]["update/kl_reference"] > 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    state = last_state(tmp_path / "run")
    assert all("lora" in name for name in state["tensors"]) == bool(extra)
    # Nothing was evaluated, so no checkpoint, that of step 0 neither, is kept as the best.
    assert (state["state"]["best"], state["state"]["best_step"]) == (-1, -1)


def test_more_steps_may_be_asked_for(whole, tmp_path, options):
    """A run of three steps that is resumed for three more is the run of six."""
    out = tmp_path / "run"
    place = options.index("--train.num_steps") + 1
    assert main(["train", *options[:place], "3", *options[place + 1 :], "--out", str(out)]) == 0
    assert main(["train", "--resume", str(out), "--train.num_steps", "6"]) == 0
    assert "num_steps = 6" in (out / "config.toml").read_text()
    assert_same_run(whole, out)


def test_a_changed_setting_is_refused(whole, capfd, tmp_path):
    before = (whole / "config.toml").read_bytes()
    given = ["--optim.lr", "1e-4", "--loss.use", "CISPO", "--train.num_steps", "9"]
    assert main(["train", "--resume", str(whole), *given]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "optim.lr was 0.001, now 0.0001" in error
    assert "loss.use was 'PPO', now 'CISPO'" in error
    assert "num_steps" not in error
    assert (whole / "config.toml").read_bytes() == before


def test_a_changed_set_of_problems_is_refused(whole, options, tmp_path, capfd):
    """Problems are asked by their place: others in the same file would be another run."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    path = Path(options[options.index("--data.train") + 1])
    text = path.read_text()
    try:
        path.write_text(text.replace("20a", "30a"))
        assert main(["train", "--resume", str(out)]) == 2
    finally:
        path.write_text(text)
    assert capfd.readouterr().err == (
        "treepo: resume: data.train: the problems are no longer those that the run was started with\n"
    )


def test_an_engine_that_fails_leaves_a_checkpoint(whole, options, tmp_path, monkeypatch, capfd):
    """Servers may be gone for good in the middle of a long run."""
    out, grow, calls = tmp_path / "run", Trainer.grow, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise EngineError("servers.urls: none is left")
        return grow(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "grow", failing)
        assert main(["train", *options, "--out", str(out)]) == 2
    captured = capfd.readouterr()
    assert captured.err == "treepo: servers.urls: none is left\n"
    assert "Stopped after step 3. To go on:" in captured.out
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


def test_a_damaged_checkpoint_is_passed_over(whole, tmp_path, capfd):
    """The run is resumed from the one before, and ends as it did."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    path = next((out / "checkpoints" / "step-000006").glob("*.safetensors"))
    bits = path.read_bytes()
    path.write_bytes(bits[:-1] + bytes([bits[-1] ^ 1]))
    assert main(["train", "--resume", str(out)]) == 0
    said = capfd.readouterr().out
    assert f"checkpoint of step 6 is damaged and passed over: {path.name} was changed: its checksum is another" in said
    assert "Resumed after step 4." in said
    assert_same_run(whole, out)


@pytest.mark.parametrize("change", ["renamed", "foreign"])
def test_a_checkpoint_of_another_run_or_step_is_refused(whole, tmp_path, capfd, change):
    """The run went on from a state that it never had. Both runs have the same settings, so nothing else differs."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    if change == "renamed":
        # Beyond what was logged, where checkpoints are passed over that are the run's own.
        (out / "checkpoints" / "step-000006").rename(out / "checkpoints" / "step-000009")
        message = "step-000009' is a checkpoint of step 6; remove it to go on from those of this run"
    else:
        initial = json.loads((out / "initial.json").read_text())
        (out / "initial.json").write_text(json.dumps(initial | {"run": "another"}))
        message = "step-000006' is a checkpoint of another run; remove it to go on from those of this run"
    capfd.readouterr()
    assert main(["train", "--resume", str(out), "--train.num_steps", "7"]) == 2
    error = capfd.readouterr().err
    assert error.endswith(f"{message}\n") and error.count("\n") == 1


def test_a_run_is_resumed_after_a_failed_write(whole, options, tmp_path, monkeypatch, capfd):
    """A disk that is full for a while costs the steps since the last checkpoint, not the run."""
    out = tmp_path / "run"

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "save_tensors", full)
        stop_at(patch, VerifiedTask, "verify", 5, signal.SIGINT)
        assert main(["train", *options, "--out", str(out)]) == 130
    # What draws without a seed of its own draws the same in the run that begins anew: once it was seeded only at first.
    seed_random(99)
    said = capfd.readouterr().out
    assert said.count("checkpoint of step 2 could not be written (No space left on device); there is none yet") == 2
    assert main(["train", "--resume", str(out)]) == 0
    assert "There is no checkpoint to resume from: the run starts anew." in capfd.readouterr().out
    assert_same_run(whole, out)

"""A disk that is full, for whichever file: one line, exit code 3, and a run that goes on when there is room."""

import errno
import os
import resource
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import treepo.learn.checkpoint as store_module
import treepo.utils.io as io_module
from tests.run.test_resume import judged_by_length, options, whole  # noqa: F401 - fixtures
from tests.runs import assert_same_run, die, finish, start
from treepo.cli.main import main
from treepo.errors import NonFiniteUpdateError
from treepo.learn.packing import PackedTree
from treepo.learn.scoring import collate
from treepo.learn.updater import Updater
from treepo.report.run_log import MetricsLog
from treepo.run import model_path
from treepo.tasks.base_model import find_or_make_base_model
from treepo.tasks.settings import BaseModelSettings

CODES = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EACCES]


@contextmanager
def full_for(name: str, code: int = errno.ENOSPC, at_step: int = 0) -> Iterator[None]:
    """While this lasts no file or folder of that name reaches the disk, from a step on; what was there stays."""
    sync, append, is_due = io_module.sync, MetricsLog.append, [at_step == 0]

    def failing_sync(path: Path) -> None:
        if is_due[0] and any(part.removesuffix(".partial") == name for part in path.parts):
            raise OSError(code, os.strerror(code), str(path))
        sync(path)

    def counting(self: MetricsLog, step: int, metrics: dict[str, float]) -> None:
        is_due[0] = step >= at_step
        append(self, step, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io_module, "sync", failing_sync)
        patch.setattr(MetricsLog, "append", counting)
        yield


def said_line(capfd: pytest.CaptureFixture[str], path: Path, lost: str) -> str:
    """The one line on standard error, which names the file, what is lost and how to go on."""
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"treepo: {str(path)!r} cannot be written ("), line
    assert f"; lost: {lost}" in line, line
    return line


FILES = {
    "initial.json": ("the checksums", 0),
    "environment.jsonl": ("versions and hardware", 0),
    "step-000003.parquet": ("the trees of step 3", 0),
    "best": ("the best model so far", 1),
    "model": ("the final model", 0),
    "report.html": ("the report", 0),
}


@pytest.mark.parametrize("name", FILES)
def test_it_is_said_in_one_line_and_the_run_goes_on_later(whole, options, tmp_path, capfd, name):  # noqa: F811
    """Most of these were tracebacks with the last steps lost, and some were said nowhere."""
    out, (lost, at_step) = tmp_path / "my run", FILES[name]
    with full_for(name, CODES[len(name) % len(CODES)], at_step):
        args = ["train", *options, "--eval.keep_best", "true", "--out", str(out)]
        assert main(args) == 3
    path = out / "trees" / name if name.endswith("parquet") else out / name
    line = said_line(capfd, path, lost)
    assert line.endswith(f"; to go on: treepo train --resume '{out}'")
    assert not list(out.rglob("*.partial")), "what is left of it would take room"
    assert main(["train", "--resume", str(out)]) == 0
    if path.suffix == ".parquet":
        # The step before it went on was complete; it is said that its trees are lost.
        shutil.copy(whole / "trees" / name, path)
    assert_same_run(whole, out)
    assert (out / name).exists() or path.exists()


@pytest.mark.parametrize(("name", "lost"), [("metrics.jsonl", "the metrics of"), ("samples.jsonl", "the samples of")])
def test_a_file_that_cannot_grow(whole, options, tmp_path, monkeypatch, capfd, name, lost):  # noqa: F811
    """Once the metrics of a step are missing, its state must not be saved: the run could not be resumed."""
    out, kept, append = tmp_path / "run", tmp_path / "kept", MetricsLog.append

    def full_from_step_3(self: MetricsLog, step: int, metrics: dict[str, float]) -> None:
        if step == 3:
            with_end = out / name
            if with_end.exists():
                with_end.rename(kept)
            with_end.symlink_to("/dev/full")
        append(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", full_from_step_3)
        assert main(["train", *options, "--out", str(out)]) == 3
    line = said_line(capfd, out / name, f"{lost} step 3")
    assert f"checkpoints: the last one is of step {2 if name == 'metrics.jsonl' else 3}" in line
    (out / name).unlink()
    if kept.exists():
        kept.rename(out / name)
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


def test_the_last_checkpoint_that_cannot_be_written(whole, options, tmp_path, monkeypatch, capfd):  # noqa: F811
    """It was a warning, and exit code 0; the model is saved all the same."""
    out = tmp_path / "run"

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "save_tensors", full)
        assert main(["train", *options, "--out", str(out)]) == 3
    said_line(capfd, out / "checkpoints", "the checkpoint of step 6; there is none yet")
    assert (out / "model" / "model.safetensors").is_file()
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


def test_a_stop_without_a_checkpoint_does_not_say_that_there_is_one(options, tmp_path, monkeypatch, capfd):  # noqa: F811
    """It said "Stopped after step 2", which was nowhere."""
    append = MetricsLog.append

    def signalled(self: MetricsLog, step: int, metrics: dict[str, float]) -> None:
        append(self, step, metrics)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricsLog, "append", signalled)
    monkeypatch.setattr(store_module, "write_manifest", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 130
    said = capfd.readouterr().out
    assert "Stopped after step 2, which could not be saved (there is none yet). To go on:" in said


def test_a_file_in_the_place_of_the_model_is_not_taken_for_it(whole, tmp_path, capfd):  # noqa: F811
    """transformers logs an error and returns: all that was trained was lost, with exit code 0."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "model")
    (out / "model").write_text("mine")
    assert main(["train", "--resume", str(out)]) == 3
    assert "a file has its name" in said_line(capfd, out / "model", "the final model")
    assert (out / "model").read_text() == "mine"
    (out / "model").unlink()
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


@pytest.mark.parametrize("name", ["environment.jsonl", "metrics.jsonl", "config.toml", "model"])
def test_resuming_on_a_full_disk_loses_nothing(whole, tmp_path, capfd, name):  # noqa: F811
    """Each file is as it was before."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    if name == "metrics.jsonl":
        with (out / name).open("a") as file:
            file.write('{"step": 7, "rew')
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    more = ["--train.num_steps", "6", *(["--checkpoint.keep", "3"] if name == "config.toml" else [])]
    with full_for(name):
        assert main(["train", "--resume", str(out), *more]) == 3
    assert "to go on: treepo train --resume" in said_line(capfd, out / name, "")
    changed = {path for path, bits in before.items() if path.read_bytes() != bits}
    assert changed <= {out / "environment.jsonl"} - {out / name}
    assert main(["train", "--resume", str(out), *more]) == 0
    assert_same_run(whole, out)


def killed_between_the_renames() -> None:
    """The model that was best has lost its name, and the new one has none yet."""
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        if self.name == "best.partial" and (self.parent / "best.before").exists():
            die()
        return rename(self, target)

    Path.rename = renamed  # pyright: ignore[reportAttributeAccessIssue]


def test_the_best_model_is_there_whenever_the_process_ends(whole, options, tmp_path):  # noqa: F811
    """Resumed after that step, the run would not save it again."""
    out = tmp_path / "run"
    args = ["train", *options, "--eval.keep_best", "true", "--out", str(out)]
    assert finish(args, tmp_path / "log", killed_between_the_renames) == -signal.SIGKILL
    assert not (out / "best").exists()
    assert finish(["train", "--resume", str(out)], tmp_path / "log") == 0, (tmp_path / "log.err").read_text()
    assert (out / "best" / "model.safetensors").is_file()
    assert sorted(path.name for path in out.glob("best*")) == ["best"]
    assert_same_run(whole, out)


def test_files_that_may_not_become_large(whole, options, tmp_path):  # noqa: F811
    """What really happens, in torch, safetensors and all: neither checkpoints nor the model fit."""
    out = tmp_path / "run"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert finish(["train", *options, "--out", str(out)], tmp_path / "log", limit) == 3
    (line,) = (tmp_path / "log.err").read_text().splitlines()
    assert line.startswith(f"treepo: {str(out / 'model')!r} cannot be written (File too large); lost: the final model")
    assert not list(out.rglob("*.partial"))
    assert finish(["train", "--resume", str(out)], tmp_path / "log") == 0
    assert_same_run(whole, out)


def test_files_have_the_mode_that_new_files_get(options, tmp_path):  # noqa: F811
    """safetensors writes files that only this user can read: servers and colleagues could not load the models."""
    out = tmp_path / "run"
    args = ["train", *options, "--eval.keep_best", "true", "--lora.rank", "2", "--lora.merge", "true"]
    assert finish([*args, "--out", str(out)], tmp_path / "log", partial(os.umask, 0o027)) == 0
    assert {"adapter", "best", "model", "checkpoints"} <= {path.name for path in out.iterdir()}
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file() and path.name != "lock"}
    assert modes == {0o640}


def test_output_to_a_full_disk_ends_no_run(options, tmp_path):  # noqa: F811
    """`treepo train > log` died in a traceback, with the last steps lost."""
    out = tmp_path / "run"
    process = start(["train", *options, "--out", str(out)], tmp_path / "log", show_on_a_full_disk)
    process.join(120)
    assert process.exitcode == 3
    line = (tmp_path / "log.err").read_text()
    assert line == (
        "treepo: 'standard output' cannot be written (No space left on device); lost: what was to be shown; "
        "all files are written\n"
    )
    assert (out / "report.html").is_file() and (out / "model").is_dir()


def show_on_a_full_disk() -> None:
    """What a child prints goes nowhere."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def test_answers_are_kept_up_to_the_last_part(chain_model, tmp_path, capfd):
    """The same command goes on, with the folder if it was named after the time."""
    args = [
        "eval",
        str(chain_model),
        "--samples",
        "2",
        "--problems",
        "4",
        "--tree.segment_len",
        "8",
        "--tree.depth",
        "1",
    ]
    out = tmp_path / "answers"
    for name, lost in (("settings.json", ""), ("fingerprints.json", ""), ("answers.parquet", ""), ("results.json", "")):
        with full_for("unfinished-" + name):
            assert main([*args, "--out", str(out)]) == 3
        assert said_line(capfd, out / name, lost).endswith(f"; to go on: {shlex.join(['treepo', *args])} --out {out}")
        assert not list(out.glob("unfinished-*"))
    with full_for("metrics.json"):
        assert main([*args, "--out", str(out), "--json", str(tmp_path / "metrics.json")]) == 3
    said_line(capfd, tmp_path / "metrics.json", "the metrics there; all answers are kept")
    assert main([*args, "--out", str(out)]) == 0


def test_a_report_a_tree_and_a_benchmark(whole, chain_model, tmp_path, capfd):  # noqa: F811
    """Each says what is lost, and the command that tries again."""
    with full_for("page.html"):
        assert main(["report", str(whole), "--out", str(tmp_path / "page.html")]) == 3
    line = said_line(capfd, tmp_path / "page.html", "the report; to go on: treepo report")
    assert line.endswith(f"--out {tmp_path / 'page.html'}")
    with full_for("tree.parquet"):
        args = ["sample", str(chain_model), "--prompt", "20a+3b-2c:", "--tree.segment_len", "8", "--tree.depth", "2"]
        assert main([*args, "--out", str(tmp_path / "tree.parquet")]) == 3
    said_line(capfd, tmp_path / "tree.parquet", "the tree above")
    assert list(tmp_path.iterdir()) == []


def test_a_base_model_that_cannot_be_kept(tmp_path, monkeypatch, capfd):
    """What is left of it is removed; a folder that cannot be used is another's mistake."""
    monkeypatch.setenv("TREEPO_CACHE", str(tmp_path / "cache"))
    quick = BaseModelSettings(num_steps=2, num_warmup_steps=1, tokens_per_step=300)
    monkeypatch.setattr(model_path, "find_or_make_base_model", partial(find_or_make_base_model, settings=quick))
    with full_for("model"):
        assert main(["sample"]) == 3
    said_line(capfd, tmp_path / "cache", "the base model; to go on: treepo sample")
    assert list((tmp_path / "cache").glob("*chain*")) == list((tmp_path / "cache").glob(".unfinished-*")) == []
    assert main(["sample"]) == 0
    (folder,) = (tmp_path / "cache").glob("chain-sums-*")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & folder.stat().st_mode}
    monkeypatch.setenv("TREEPO_CACHE", "/dev/null/cache")
    capfd.readouterr()
    assert main(["sample"]) == 2
    assert capfd.readouterr().err == "treepo: TREEPO_CACHE: cannot write to '/dev/null/cache': Not a directory\n"


def test_a_batch_that_cannot_be_kept_hides_no_numbers_that_are_not_finite(options, tmp_path, monkeypatch, capfd):  # noqa: F811
    """The reason why the run ended comes first."""

    def not_finite(self: Updater, trees: list[PackedTree]) -> dict[str, float]:
        raise NonFiniteUpdateError("loss", collate(trees))

    monkeypatch.setattr(Updater, "update", not_finite)
    out = tmp_path / "run"
    with full_for("failed-step-000001.safetensors"):
        assert main(["train", *options, "--out", str(out)]) == 1
    error = capfd.readouterr().err
    assert error == (
        f"treepo: step 1: loss is not finite; its batch could not be kept in "
        f"'{out}/failed-step-000001.safetensors' (No space left on device)\n"
    )

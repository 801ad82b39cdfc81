"""Run folders that something has damaged, and runs that are resumed from another folder."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.run.test_resume import judged_by_length, options, whole  # noqa: F401 - fixtures
from tests.runs import assert_same_run, untimed_metrics
from treepo.cli.main import main
from treepo.config.load import read_recipe

DAMAGES = {
    "cut": lambda bits: bits[: len(bits) // 2],
    "empty": lambda _: b"",
    "no text": lambda _: b"\xff\xfe\x00" * 100,
    "nulls": lambda bits: b"\0" * len(bits),
    "deep": lambda _: b"[" * 100_000 + b"\n",
    "no object": lambda bits: b"[1]\n" + bits,
    "a long number": lambda bits: b'{"step": ' + b"9" * 6000 + b"}\n" + bits,
    "no step": lambda bits: b'{"step": "1"}\n{}\n' + bits,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_the_run_does_not_need_is_named_and_passed_over(whole, tmp_path, capfd, damage):  # noqa: F811
    """It was a traceback, or one line that ended the run for good. Afterwards the files are whole again."""
    out, names = tmp_path / "run", ["samples.jsonl", "environment.jsonl", "initial.json"]
    shutil.copytree(whole, out)
    for name in names:
        (out / name).write_bytes(DAMAGES[damage]((whole / name).read_bytes()))
    assert main(["train", "--resume", str(out)]) == 0
    captured = capfd.readouterr()
    # A log may be empty, and of the environment any object is taken.
    is_fine = {"empty": names[:2], "no step": names[1:2]}.get(damage, [])
    assert all((f"{str(out / name)!r} is damaged" in captured.out) != (name in is_fine) for name in names)
    assert captured.err == ""
    assert_same_run(whole, out)
    for line in [line for name in names[:2] for line in (out / name).read_text().splitlines()]:
        assert isinstance(json.loads(line), dict)
    assert (out / "initial.json").read_bytes() == (whole / "initial.json").read_bytes()
    assert main(["train", "--resume", str(out)]) == 0
    assert "damaged" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "environment.jsonl"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_no_file_is_named(whole, tmp_path, capfd, name, is_folder):  # noqa: F811
    """A pipe would be waited for, and /dev/full read without end."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / name).unlink()
    (out / name).mkdir() if is_folder else os.mkfifo(out / name)
    assert main(["train", "--resume", str(out)]) == 2
    assert capfd.readouterr().err == f"treepo: resume: {str(out / name)!r} is no file\n"


def test_what_is_too_long_to_be_read_is_named_at_once(whole, tmp_path, capfd):  # noqa: F811
    """A hole of 6 GB in a file of the run was read into memory, as often as `watch` looked at it."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("initial.json", "metrics.jsonl"):
        os.truncate(out / name, 6 << 30)
    assert main(["watch", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    assert main(["train", "--resume", str(out)]) == 2
    captured = capfd.readouterr()
    assert "initial.json' is damaged (longer than 67108864 bytes)" in captured.out
    assert captured.err == (
        f"treepo: resume: {str(out / 'metrics.jsonl')!r} cannot be read: longer than 2147483648 bytes\n"
    )


@pytest.mark.parametrize("damage", ["cut", "without its end", "another step"])
def test_metrics_that_are_cut_lead_to_an_earlier_checkpoint(whole, tmp_path, capfd, damage):  # noqa: F811
    """The newest one is then of a step whose metrics are lost: resuming ended in a traceback."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    lines = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[5] = {"cut": lines[5][:30], "without its end": lines[5][:-1], "another step": lines[4]}[damage]
    (out / "metrics.jsonl").write_bytes(b"".join(lines if damage == "another step" else lines[:6]))
    assert main(["train", "--resume", str(out)]) == 0
    said = capfd.readouterr().out
    assert (
        f"{str(out / 'metrics.jsonl')!r} holds no whole line for step 5: later checkpoints (6) are passed over" in said
    )
    assert "Resumed after step 4." in said
    assert_same_run(whole, out)


def test_metrics_that_fit_no_checkpoint_are_refused(whole, tmp_path, capfd):  # noqa: F811
    """A run that began anew would drop the checkpoints, which hold all that was trained."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "metrics.jsonl").write_text("")
    assert main(["train", "--resume", str(out)]) == 2
    assert capfd.readouterr().err == (
        f"treepo: resume: {str(out / 'metrics.jsonl')!r} holds no whole line for step 0, and no checkpoint is from "
        "before it; a run that begins anew needs another folder\n"
    )
    assert (out / "checkpoints" / "step-000006").is_dir()


def test_fewer_steps_than_were_made_are_refused(whole, tmp_path, capfd):  # noqa: F811
    """The run was cut to them on paper, with the weights of all."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    assert main(["train", "--resume", str(out), "--train.num_steps", "3"]) == 2
    assert capfd.readouterr().err == "treepo: train.num_steps: the run has made 6 steps already, got 3\n"
    assert untimed_metrics(out) == untimed_metrics(whole)
    assert (out / "config.toml").read_bytes() == (whole / "config.toml").read_bytes()


@pytest.mark.parametrize("place", ["manifest.json", "best.partial", "checkpoints/step-000007.partial"])
def test_leftovers_and_what_is_no_file_hold_up_nothing(whole, tmp_path, place):  # noqa: F811
    """A manifest that is a pipe was waited for; a file in the place of a folder that is begun was not removed."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    if place == "manifest.json":
        (out / "checkpoints" / "step-000006" / place).unlink()
        os.mkfifo(out / "checkpoints" / "step-000006" / place)
    else:
        (out / place).write_text("a file")
    assert main(["train", "--resume", str(out), "--train.num_steps", "7"]) == 0
    assert not list(out.rglob("step-*.partial"))
    assert (out / "checkpoints" / "step-000007").is_dir()


def test_a_run_is_resumed_from_another_folder(whole, options, chain_model, tmp_path, monkeypatch, capfd):  # noqa: F811
    """The model and the problems were looked for in the folder where one stood; commands to copy were not quoted."""
    there = tmp_path / "where it began"
    there.mkdir()
    monkeypatch.chdir(there)
    (there / "my model").symlink_to(chain_model)
    given = list(options)
    for name, short in (("--model.path", "my model"), ("--data.train", "train.jsonl"), ("--data.eval", "eval.jsonl")):
        place = given.index(name) + 1
        if name != "--model.path":
            shutil.copy(given[place], there / short)
        given[place] = short
    given[given.index("--train.num_steps") + 1] = "3"
    assert main(["train", *given, "--lora.rank", "2", "--lora.merge", "true", "--out", "my run"]) == 0
    said = capfd.readouterr().out
    commands = [line.partition(":  ")[2] for line in said.splitlines() if ":  treepo " in line]
    assert any(
        shlex.split(command)[2:] == ["my run/config.toml", "--model.path", "my run/model"] for command in commands
    )
    settings = read_recipe(there / "my run" / "config.toml")
    assert settings["model"]["path"] == str(there / "my model")
    assert (settings["data"]["train"], settings["data"]["eval"]) == (
        [str(there / "train.jsonl")],
        [str(there / "eval.jsonl")],
    )
    adapter = json.loads((there / "my run" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(there / "my model")
    monkeypatch.chdir("/")
    run = str(there / "my run")
    assert main(["train", "--resume", run, "--train.num_steps", "4"]) == 0
    assert [m["step"] for m in untimed_metrics(Path(run))] == [0, 1, 2, 3, 4]
    assert f"treepo train '{run}/config.toml' --model.path '{run}/model'" in capfd.readouterr().out

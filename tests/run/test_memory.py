"""Memory that runs out while a run grows trees: it goes on, or ends in one line where it can be resumed."""

from pathlib import Path

import pytest
import torch

from tests.run.test_resume import judged_by_length, options, whole  # noqa: F401 - fixtures
from tests.runs import assert_same_run, judge_length, untimed_metrics
from treepo.cli.main import main
from treepo.engine.torch import engine as engine_module
from treepo.grow.sampler import TreeSampler
from treepo.report.trees import read_trees
from treepo.verify.task import VerifiedTask

MESSAGES = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory.\nGPU 0 has ..."),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."
    ),
    "numpy": MemoryError("Unable to allocate 2.00 GiB for an array"),
}


def fail_at(patch: pytest.MonkeyPatch, first: int, last: int, error: Exception) -> list[int]:
    """Let these calls of what samples tokens fail; returns how many rows there were in each."""
    original, calls = engine_module.sample_tokens, []

    def failing(logits, *args, **settings):
        calls.append(len(args[0]))
        if first <= len(calls) <= last:
            raise error
        return original(logits, *args, **settings)

    patch.setattr(engine_module, "sample_tokens", failing)
    return calls


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_run_goes_on_with_the_same_trees(whole, options, tmp_path, monkeypatch, capfd, kind):  # noqa: F811
    """It was a traceback. All but the engine's own figures, such as its steps,
    and shares of weights that rounding moves are the same up to rounding."""
    out = tmp_path / "run"
    calls = fail_at(monkeypatch, 30, 31, MESSAGES[kind])
    assert main(["train", *options, "--out", str(out)]) == 0
    assert len(calls) > 60
    said = capfd.readouterr().out
    assert said.count("warning: out of memory while decoding: from now on engine.max_num_seqs is") == 2
    for one, other in zip(untimed_metrics(whole), untimed_metrics(out), strict=True):
        assert one.keys() == other.keys()
        for name in [name for name in one if not name.startswith(("engine/", "mismatch/", "update/frac_"))]:
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    for path in whole.glob("trees/*"):
        pairs = zip(read_trees(path), read_trees(out / path.relative_to(whole)), strict=True)
        for one, other in pairs:
            for node, same in zip(one.tree.nodes, other.tree.nodes, strict=True):
                assert node.token_ids.tolist() == same.token_ids.tolist()


def test_a_run_without_memory_for_one_sequence_ends_where_it_can_be_resumed(
    whole,  # noqa: F811
    options,  # noqa: F811
    tmp_path,
    monkeypatch,
    capfd,
):
    """In one line, with the settings to change; the last complete step has a checkpoint."""
    out, grow, calls = tmp_path / "my run", TreeSampler.grow, []

    def grow_until_step_4(self, *args, **kwargs):
        calls.append(1)
        # Each evaluation grows twice: at the start, at step 3.
        if len(calls) == 2 + 3 + 2 + 1:
            fail_at(monkeypatch, 1, 10**9, MESSAGES["cuda"])
        return grow(self, *args, **kwargs)

    monkeypatch.setattr(TreeSampler, "grow", grow_until_step_4)
    assert main(["train", *options, "--out", str(out)]) == 3
    captured = capfd.readouterr()
    assert captured.err == (
        "treepo: engine.max_num_seqs: out of memory with a single sequence that is decoded; "
        f"{engine_module.REMEDIES} (CUDA out of memory.); checkpoints: the last one is of step 3; "
        f"to go on: treepo train --resume '{out}'\n"
    )
    assert f"Stopped after step 3. To go on:  treepo train --resume '{out}'" in captured.out
    monkeypatch.undo()
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(whole, out)


def test_an_evaluation_goes_on_too(chain_model, tmp_path: Path, monkeypatch, capfd) -> None:
    """`treepo eval` asks all problems at once."""
    args = [
        "eval",
        str(chain_model),
        "--samples",
        "2",
        "--problems",
        "6",
        "--tree.segment_len",
        "8",
        "--tree.depth",
        "1",
    ]
    assert main([*args, "--out", str(tmp_path / "one")]) == 0
    fail_at(monkeypatch, 2, 3, MESSAGES["cpu"])
    assert main([*args, "--out", str(tmp_path / "two")]) == 0
    assert "out of memory while decoding" in capfd.readouterr().out
    fail_at(monkeypatch, 1, 10**9, MESSAGES["cpu"])
    assert main([*args, "--out", str(tmp_path / "three")]) == 3
    assert capfd.readouterr().err.endswith(f"--out {tmp_path / 'three'}\n")
